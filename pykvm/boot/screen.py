"""The screen, as Multiboot tells of it: the VGA that every board has, in text mode.

Source: Multiboot2 Specification 2.0 §3.6.12, Multiboot 0.6.96 §3.3: for EGA text, width and height count
characters of 16 bits, the pitch the bytes of a line.
"""

from __future__ import annotations

from struct import pack

COLUMNS, LINES = 80, 25
BITS = 16
EGA_TEXT = 2

# framebuffer_addr, _pitch, _width, _height, _bpp, _type: one behind the other in both protocols
SCREEN = pack("<QIIIBB", 0xB8000, COLUMNS * BITS // 8, COLUMNS, LINES, BITS, EGA_TEXT)
IN_WORDS = f"the screen is text, {COLUMNS}x{LINES}"
