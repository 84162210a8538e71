; A zImage of boot protocol 2.01, before there was a pointer to the command line.

%define NAME    "boot-zimage"
VERSION         equ 0x201
LOADFLAGS       equ 0

%include "setup.inc"
