"""The 16550A's registers and their bits, as the data sheet of National's PC16550D (June 1995) has them."""

from __future__ import annotations

# offset, name, access, value after reset, section of the data sheet; DLL and DLM while LCR.DLAB is set
REGISTERS = (
    (0, "RBR", "R", 0x00, "8.0"),
    (0, "THR", "W", None, "8.0"),
    (0, "DLL", "RW", None, "8.3"),
    (1, "IER", "RW", 0x00, "8.7"),
    (1, "DLM", "RW", None, "8.3"),
    (2, "IIR", "R", 0x01, "8.6"),
    (2, "FCR", "W", 0x00, "8.5"),
    (3, "LCR", "RW", 0x00, "8.1"),
    (4, "MCR", "RW", 0x00, "8.8"),
    (5, "LSR", "R", 0x60, "8.4"),
    (6, "MSR", "R", None, "8.9"),
    (7, "SCR", "RW", None, "8.10"),
)
PORTS = 8
RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7

IER_ERBFI = 0x01  # received data available
IER_ETBEI = 0x02  # transmitter holding register empty
IER_ELSI = 0x04  # receiver line status
IER_EDSSI = 0x08  # modem status
IER_BITS = 0x0F

# Table in §8.6, highest priority first
IIR_LINE_STATUS = 0x06
IIR_DATA = 0x04
IIR_TIMEOUT = 0x0C
IIR_THR_EMPTY = 0x02
IIR_MODEM_STATUS = 0x00
IIR_NONE = 0x01
IIR_FIFOS = 0xC0

FCR_ENABLE = 0x01
FCR_RESET_RCVR, FCR_RESET_XMIT = 0x02, 0x04
TRIGGER_LEVELS = (1, 4, 8, 14)  # by FCR bits 7:6
FIFO_DEPTH = 16

LCR_BREAK, LCR_DLAB = 0x40, 0x80

MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 0x01, 0x02, 0x04, 0x08, 0x10
MCR_BITS = 0x1F

LSR_DR = 0x01
LSR_OE = 0x02
LSR_PE = 0x04
LSR_FE = 0x08
LSR_BI = 0x10
LSR_THRE = 0x20
LSR_TEMT = 0x40
LSR_FIFO_ERROR = 0x80
LSR_ERRORS = LSR_OE | LSR_PE | LSR_FE | LSR_BI
LSR_CLEARED_BY_READ = LSR_ERRORS | LSR_FIFO_ERROR
NOTHING_NEW = LSR_THRE | LSR_TEMT

MSR_DELTAS = 0x0F  # DCTS, DDSR, TERI, DDCD
MSR_TERI = 0x04
MSR_CTS = 0x10
MSR_DSR = 0x20
MSR_RI = 0x40
MSR_DCD = 0x80
MSR_LINES = 0xF0
# What is plugged in: a terminal that is on, with carrier, and never rings.
MSR_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD

# In the receiver's FIFO a character carries its error in the bits above: §8.4, "associated with the
# particular character in the FIFO it applies to".
BREAK_CHARACTER = LSR_BI << 8
