"""The table of all keys: it checks a machine file, fills in defaults and makes the JSON Schema.

A new key is a row here and a field in pykvm/config/model.py.
"""

from __future__ import annotations

from pykvm.config.groups import Group, ListOf, MapOf, OneOf, key
from pykvm.config.kinds import (
    Choice,
    CommandLine,
    Duration,
    Flag,
    Image,
    Later,
    Name,
    Part,
    SerialTarget,
    Size,
    Text,
    Whole,
)
from pykvm.config.model import (
    CpusConfig,
    DebugExitConfig,
    ExpectConfig,
    KernelConfig,
    MemoryConfig,
    OnConfig,
    SerialConfig,
)
from pykvm.config.ports import SERIAL_PORTS

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
FOUR_GIB = 1 << 32
HOUR = 3600 * 10**9

NAME = Name()
CPU_MODELS = ("host", "baseline", "x86-64-v1", "x86-64-v2", "x86-64-v3")
FEATURE_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789_.-"  # as Linux and QEMU spell them
MOST_CPUS = 64
ADDRESS = Whole(least=0, most=FOUR_GIB - 1, hexadecimal=True)
DEBUG_EXIT_PORT = Whole(least=0, most=0xFFFC, hexadecimal=True)  # the first of four

CPUS = Group(
    noun="a number of CPUs",
    example="cpus: 1",
    record=CpusConfig,
    short="count",
    rows=(
        key(
            "count",
            Whole(least=1, most=MOST_CPUS),
            "How many CPUs the machine starts with.",
            default=1,
        ),
        key(
            "max",
            Whole(least=1, most=MOST_CPUS),
            "How many CPUs the tables have room for; those beyond count are told as absent.",
        ),
        key(
            "model",
            Choice(noun="a CPU model", now=CPU_MODELS),
            "What the CPU is: all that this host offers, or a level that is the same on every host.",
            default="host",
        ),
        key(
            "features",
            MapOf(
                noun="CPU feature",
                example="features: {avx2: off}",
                letters=FEATURE_LETTERS,
                value=Flag(),
            ),
            "CPUID features to add to the model or to take away, by name.",
            default={},
        ),
    ),
)

MEMORY = Group(
    noun="a size",
    example="memory: 512M",
    record=MemoryConfig,
    short="size",
    rows=(
        key(
            "size",
            Size(least=MIB, most=8 * TIB, multiple=4 * KIB),  # KVM's largest slot is a page less than 8T
            "The RAM that the machine starts with; only pages that the guest touches cost the host.",
            default="512M",
        ),
        key(
            "max",
            Later(sentence="memory can't be added to a running machine yet"),
            "The RAM that it can grow to while it runs.",
        ),
        key(
            "hugepages",
            Flag(later="pykvm takes guest memory in ordinary pages so far"),
            "Whether the host backs the guest's memory with huge pages.",
            default=False,
        ),
    ),
)

KERNEL = Group(
    noun="a kernel",
    example="kernel: vmlinuz",
    record=KernelConfig,
    short="image",
    rows=(
        key(
            "image",
            Image(),
            "The kernel: a path, debian:PACKAGE, host (the running kernel), or recipe:FOLDER.",
            required="write image: and the path of a kernel",
        ),
        key(
            "initrd",
            ListOf(item=Part(), single=True),
            "The initial RAM disk: a path, or several that are laid one after the other.",
            default=[],
        ),
        key(
            "cmdline",
            CommandLine(),
            "The kernel's command line; words that pykvm adds give way to those here.",
            default="",
        ),
        key(
            "format",
            Choice(
                noun="a kernel format",
                now=("auto", "bzimage", "elf", "pvh", "multiboot", "multiboot2", "bootsector", "flat"),
            ),
            "How the image is built; auto looks at its first bytes.",
            default="auto",
        ),
        key(
            "entry",
            Choice(noun="an entry mode", now=("auto", "real", "protected", "long")),
            "The mode that the CPU enters the kernel in.",
            default="auto",
        ),
        key("load", ADDRESS, "The address where a flat kernel goes."),
        key("start", ADDRESS, "The address where a flat kernel starts; without it, where it was loaded."),
    ),
)

SERIAL = Group(
    noun="a serial port",
    example="serial: {port: com1, to: terminal}",
    record=SerialConfig,
    rows=(
        key(
            "port",
            Choice(noun="a serial port", now=tuple(SERIAL_PORTS)),
            "Which of the four serial ports of a PC it is.",
            default="com1",
        ),
        key(
            "to",
            SerialTarget(),
            "Where its bytes go: terminal, none, pty, unix:PATH or a path.",
            default="terminal",
        ),
    ),
)

DEBUG_EXIT = Group(
    noun="a debug-exit device",
    example="debug-exit: {port: 0xf4}",
    record=DebugExitConfig,
    rows=(
        key(
            "port",
            DEBUG_EXIT_PORT,
            "The I/O port whose first write ends the machine; the next three belong to it too.",
            default=0xF4,
        ),
    ),
)

DEVICE = OneOf(
    noun="device",
    rows=(
        key("serial", SERIAL, "A 16550A serial port."),
        key("disk", Later(sentence="this pykvm has no disks yet"), "A disk from an image file."),
        key("net", Later(sentence="this pykvm has no network cards yet"), "A network card."),
        key("share", Later(sentence="this pykvm can't share folders yet"), "A folder of the host's."),
        key("rng", Later(sentence="this pykvm has no random device yet"), "A source of random numbers."),
        key(
            "console",
            Later(sentence="this pykvm has no virtio console yet", remedy="use a serial port"),
            "A virtio console.",
        ),
        key("balloon", Later(sentence="this pykvm has no memory balloon yet"), "A memory balloon."),
        key("vsock", Later(sentence="this pykvm has no vsock yet"), "A socket between host and guest."),
        key("debug-exit", DEBUG_EXIT, "A port that ends the machine with a status."),
    ),
)

ON = Group(
    noun="a map of events",
    example="on: {reset: exit}",
    record=OnConfig,
    rows=(
        key(
            "reset",
            Choice(noun="an action", now=("exit", "restart", "pause")),
            "What happens when the guest resets the machine: it ends, starts again, or stands still.",
            default="exit",
        ),
        key(
            "panic",
            Choice(noun="an action", now=("exit", "restart", "pause")),
            "What happens when the guest's kernel panics: the same three.",
            default="exit",
        ),
    ),
)

EXPECT = Group(
    noun="an expectation",
    example='expect: {output: "login:", within: 60s}',
    record=ExpectConfig,
    rows=(
        key(
            "output",
            Text(),
            "Text that the guest must print.",
            required='write output: and the text, such as "login:"',
        ),
        key(
            "within",
            Duration(most=1000 * HOUR, longest="60000m"),
            "How soon, counted from the first instruction.",
            default="60s",
            field="within_ns",
        ),
    ),
)

MACHINE = Group(
    noun="a machine",
    example="keys such as kernel: vmlinuz",
    record=dict,
    rows=(
        key("name", NAME, "The machine's name; without it, the name of the file's folder."),
        key("cpus", CPUS, "The CPUs: a number, or what to know about them.", default={}),
        key("memory", MEMORY, "The RAM: a size, or what to know about it.", default={}),
        key("kernel", KERNEL, "The kernel: an image, or what to know about it."),
        key(
            "firmware",
            Choice(
                noun="a firmware",
                now=("none",),
                others_later=True,
                sentence="pykvm starts kernels without firmware so far",
            ),
            "What starts first: none goes straight into the kernel.",
            default="none",
        ),
        key(
            "backend",
            Choice(noun="a back end", now=("auto", "kvm", "translate")),
            "What runs the CPUs: KVM, or translation; auto takes KVM where the host's is quick enough.",
            default="auto",
        ),
        key(
            "interrupts",
            Choice(
                noun="a place for the interrupt controllers",
                now=("kernel", "split", "user"),
            ),
            "Where PIC, IOAPIC and local APIC are emulated: by KVM, in the kernel, or by pykvm; split: "
            "the local APIC there, the others in pykvm. Without this key, where the back end has them.",
        ),
        key(
            "pit",
            Choice(noun="a place for the timer chip", now=("kernel", "user", "none")),
            "Where the timer chip is emulated. Without this key, where the PIC is.",
        ),
        key(
            "hpet",
            Flag(),
            "Whether the board has an HPET, a second timer chip; it needs the first one at user.",
            default=False,
        ),
        key(
            "display",
            Choice(noun="a place for the screen", now=("terminal", "none")),
            "Where the VGA's text screen is shown, and whose keys are the keyboard's.",
            default="terminal",
        ),
        key(
            "transport",
            Choice(
                noun="a transport",
                now=("pci",),
                later=("mmio",),
                sentence="there is no virtio device yet that it could attach",
            ),
            "How virtio devices attach.",
            default="pci",
        ),
        key(
            "devices",
            ListOf(item=DEVICE),
            "Devices beside the parts that every board has; a list replaces the default one.",
            default=[{"serial": {"port": "com1", "to": "terminal"}}, {"debug-exit": {"port": 0xF4}}],
        ),
        key(
            "limits",
            Later(
                sentence="pykvm can't limit its own process yet", remedy="leave it out, or use systemd-run"
            ),
            "What the whole process may take.",
        ),
        key("on", ON, "What happens on a reset and on a panic.", default={}),
        key("expect", EXPECT, "What makes a boot a test: output that must come."),
    ),
)
