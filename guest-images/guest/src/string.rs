//! `memcpy` and its kin, which compiled code calls and no C library is there to
//! give. In assembly, since a compiler turns such loops back into the call.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .text.string, "ax"

    # Below this length a loop beats the start-up cost of a string instruction.
    .set SHORT, 128

    .global memcpy
    memcpy:                         # rdi = to, rsi = from, rdx = bytes
        mov rax, rdi
        mov rcx, rdx
        cmp rdx, SHORT
        ja  3f
        shr ecx, 3
        jz  2f
    1:  mov r8, [rsi]
        mov [rdi], r8
        add rsi, 8
        add rdi, 8
        dec ecx
        jnz 1b
    2:  mov ecx, edx
        and ecx, 7
        jz  5f
    4:  mov r8b, [rsi]
        mov [rdi], r8b
        inc rsi
        inc rdi
        dec ecx
        jnz 4b
    5:  ret
    3:  rep movsb
        ret

    .global memmove
    memmove:
        mov rcx, rdi
        sub rcx, rsi
        cmp rcx, rdx                # unsigned: true if `to` lies inside of [from, from + bytes)
        jae memcpy
        mov rax, rdi
        mov rcx, rdx
    1:  cmp rcx, 8
        jb  2f
        sub rcx, 8
        mov r8, [rsi + rcx]
        mov [rdi + rcx], r8
        jmp 1b
    2:  test rcx, rcx
        jz  3f
        dec rcx
        mov r8b, [rsi + rcx]
        mov [rdi + rcx], r8b
        jmp 2b
    3:  ret

    .global memset
    memset:                         # rdi = to, esi = byte, rdx = bytes
        mov r8, rdi
        mov eax, esi
        mov rcx, rdx
        rep stosb
        mov rax, r8
        ret

    .global memcmp
    .global bcmp
    memcmp:                         # rdi, rsi = operands, rdx = bytes
    bcmp:
        xor ecx, ecx
    1:  lea r8, [rcx + 8]
        cmp r8, rdx
        ja  2f
        mov rax, [rdi + rcx]
        cmp rax, [rsi + rcx]
        jne 2f
        mov rcx, r8
        jmp 1b
    2:  cmp rcx, rdx
        jae 3f
        movzx eax, byte ptr [rdi + rcx]
        movzx r8d, byte ptr [rsi + rcx]
        inc rcx
        sub eax, r8d
        jz  2b
        ret
    3:  xor eax, eax
        ret
    "#
);
