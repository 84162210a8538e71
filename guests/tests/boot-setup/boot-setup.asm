; A bzImage of boot protocol 2.15, by its 16-bit entry.

%define NAME    "boot-setup"
VERSION         equ 0x20f
LOADFLAGS       equ 1

%include "setup.inc"
