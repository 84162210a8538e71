; Single steps by TF: where each trap comes, over INT and IRET, after POPF, MOV SS and STI, a REP's turns, DR6.BS,
; and RF. SDM vol. 3 §17.3.1.4, §6.8.3.

%include "pc.inc"

COUNT   equ own
CAUSE     equ own + 8
LOG     equ own + 0x100         ; EIP of each trap

%macro  step_on 0
        pushfd
        or      dword [esp], 1 << 8
        popfd                   ; the trap comes after the instruction that follows
%endmacro
%macro  step_off 0
        pushfd
        and     dword [esp], ~(1 << 8)
        popfd
%endmacro

main:   say     "step:"
        gate    1, debug
        gate    0x40, handler
        ; Three instructions and what turns TF off (PUSHFD, AND, POPFD, of which the last is trapped no more).
        step_on
first:  nop
        nop
        nop
        step_off
        fact    "nops", [COUNT]
        mov     eax, [LOG]
        sub     eax, first
        fact    "first", eax                    ; behind the first NOP
        fact    "dr6", [CAUSE]
        mov     dword [COUNT], 0
        ; A REP traps after each turn.
        mov     ecx, 4
        mov     edi, own + 0x40
        step_on
rep_at: rep     stosb
        step_off
        fact    "rep", [COUNT]
        mov     eax, [LOG]
        sub     eax, rep_at
        fact    "repip", eax
        mov     eax, [LOG + 12]
        sub     eax, rep_at
        fact    "replast", eax
        mov     dword [COUNT], 0
        ; MOV to SS puts off the trap.
        mov     eax, ss
        step_on
ss_at:  mov     ss, eax
        nop
        nop
        step_off
        fact    "movss", [COUNT]
        mov     eax, [LOG]
        sub     eax, ss_at
        fact    "ssip", eax
        mov     dword [COUNT], 0
        ; INT clears TF in the handler, IRET brings it back: the next trap comes after one instruction more.
        step_on
        nop
int_at: int     0x40
after_int:
        nop
        nop
        step_off
        fact    "int", [COUNT]
        mov     eax, [LOG + 4]
        sub     eax, after_int
        fact    "intip", eax
        mov     dword [COUNT], 0
        ; A fault under TF comes alone.
        mov     dword [LOG], 0
        trial_of "fault", ud_at, ud_after
        step_on
ud_at:  ud2
ud_after:
        call    told
        fact    "faultcount", [COUNT]
        mov     eax, [t_flags]
        and     eax, 1 << 8 | 1 << 16
        fact    "tfrf", eax                     ; RF is set for a fault
        mov     dword [COUNT], 0
        ; Branches, calls, HLT's neighbours: a call is one step.
        step_on
        call    routine
        nop
        step_off
        fact    "call", [COUNT]
        mov     dword [COUNT], 0
        ; Ring 3.
        mov     dword [user_flags], 1 << 8 | 2
        user    "user", nop
        mov     dword [user_flags], 2
        fact    "usercount", [COUNT]
        mov     dword [COUNT], 0
        step_on
        pushfd
        pop     ebx
        step_off
        and     ebx, 1 << 8
        fact    "pushed", ebx                   ; PUSHF stores TF
        fact    "pushcount", [COUNT]
        finish

routine:
        ret
handler:
        iretd
debug:  push    eax
        push    ebx
        mov     ebx, [COUNT]
        mov     eax, [esp + 8]
        mov     [LOG + ebx * 4], eax
        inc     dword [COUNT]
        mov     eax, dr6
        mov     [CAUSE], eax
        xor     eax, eax
        mov     dr6, eax
        pop     ebx
        pop     eax
        iretd
