; Code that changes: the next instruction, one before, a loop's body, a page that runs under two addresses, a
; routine that is written anew many times, by REP MOVS too, and data beside code. SDM vol. 3 §11.6.

%include "pc.inc"
%include "long.inc"

CODE1   equ 0x100000
ALIAS   equ 0x40100000          ; maps the same page in long mode

main:   say     "selfmod:"
        ; The next instruction's immediate.
        mov     dword [.next + 1], 0x600d
        jmp     .next                           ; as the manual asks for
.next:  mov     eax, 0xbad
        fact    "next", eax
        mov     dword [.straight + 1], 0x1600d  ; and without
.straight:
        mov     eax, 0xbad
        fact    "straight", eax
        ; A loop that changes its own body each turn.
        mov     ecx, 16
        xor     ebx, ebx
.loop:  mov     eax, 0                          ; becomes ECX
.patch: add     ebx, eax
        mov     [.loop + 1], ecx
        loop    .loop
        fact    "loop", ebx                     ; 16 + 15 + ... + 2
        ; A routine that is written anew 200 times.
        mov     ecx, 200
        xor     ebx, ebx
        mov     edi, CODE1
        mov     byte [edi], 0xb8                ; mov eax, n
        mov     byte [edi + 5], 0xc3
.anew:  mov     [edi + 1], ecx
        call    edi
        add     ebx, eax
        loop    .anew
        fact    "anew", ebx
        ; Written by REP MOVSB over what just ran.
        mov     esi, new_code
        mov     edi, CODE1
        mov     ecx, new_code.end - new_code
        rep     movsb
        mov     eax, CODE1
        call    eax
        fact    "movs", eax
        ; REP STOS of INC EAX, RET behind; its length changes.
        mov     ebx, 64
        xor     ebp, ebp
.more:  mov     edi, CODE1 + 0x100
        mov     ecx, ebx
        mov     al, 0x40
        rep     stosb
        mov     byte [edi], 0xc3
        xor     eax, eax
        mov     edx, CODE1 + 0x100
        call    edx
        add     ebp, eax
        dec     ebx
        jnz     .more
        fact    "stos", ebp                     ; 64 + 63 + ... + 1
        ; Data right behind code, counted in a loop.
        mov     ecx, 1000
.count: inc     dword [.counter]
        loop    .count
        fact    "counter", [.counter]
        jmp     .over
.counter: dd     0
.over:
        ; An instruction over two pages, whose second half changes.
        mov     edi, CODE1 + 0xffe
        mov     word [edi], 0x05b8
        mov     dword [edi + 2], 0xc3_000000
        mov     byte [edi + 4], 0
        mov     byte [edi + 5], 0xc3
        call    edi
        fact    "cross", eax
        mov     byte [edi + 4], 0x11            ; in the second page
        call    edi
        fact    "cross2", eax
        mov     byte [edi + 1], 0x22            ; in the first
        call    edi
        fact    "cross3", eax
        ; By another address of the same page.
        enter_long
        mov     qword [DIRECTORIES + 0x1000], 0x87      ; 1 GiB shows the first 2 MiB
        mov     rax, cr3
        mov     cr3, rax
        mov     edi, CODE1
        mov     byte [rdi], 0xb8
        mov     dword [rdi + 1], 0x111
        mov     byte [rdi + 5], 0xc3
        call    rdi
        fact    "here", rax
        mov     esi, ALIAS
        mov     dword [rsi + 1], 0x222
        call    rdi
        fact    "alias", rax
        call    rsi
        fact    "there", rax
        mov     dword [rdi + 1], 0x333
        call    rsi
        fact    "back", rax
        ; Another page under the same address.
        mov     byte [0x300000], 0xb8
        mov     dword [0x300001], 0x444
        mov     byte [0x300005], 0xc3
        mov     qword [DIRECTORIES + 0x1000], 0x200087  ; 1 GiB shows what is at 2 MiB
        invlpg  [rsi]
        call    rsi
        fact    "remapped", rax
        mov     qword [DIRECTORIES + 0x1000], 0x87
        invlpg  [rsi]
        call    rsi
        fact    "mappedback", rax
        ; Locked and exchanged writes to code.
        mov     eax, 0x555
        xchg    [rdi + 1], eax
        call    rdi
        fact    "xchg", rax
        lock inc dword [rdi + 1]
        call    rdi
        fact    "lock", rax
        push    qword 0x777
        pop     rax
        mov     rcx, rsp
        lea     rsp, [rdi + 9]
        push    rax                             ; overwrites the immediate and the RET
        mov     rsp, rcx
        mov     byte [rdi + 5], 0xc3
        call    rdi
        fact    "push", rax
        finish
        bits    32

new_code:
        mov     eax, 0x7777
        ret
.end:
