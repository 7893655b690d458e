# Everything that ring 0 does after boot: the call door, interrupts, faults.
# A KVM that emulates ring 0 takes a quarter of a microsecond an instruction
# here and eight for each port or device access: count both.

.section .text.nucleus, "ax"
.code64

# ── The door ────────────────────────────────────────────────────────────────
# `int3` from ring 3: eax = call number, other registers by call. The gate
# leaves the interrupt flag as it was in ring 3. (Why int3: `int n` is not
# emulated by every KVM, a breakpoint trap is, and it costs less than a fault.)
door:
    jmp [call_targets + rax * 8]

call_in8:                           # dx = port → eax
    xor eax, eax
    in  al, dx
    iretq
call_in32:                          # dx = port → eax
    in  eax, dx
    iretq
call_out8:                          # dx = port, ecx = value
    mov eax, ecx
    out dx, al
    iretq
call_out16:                         # dx = port, ecx = value
    mov eax, ecx
    out dx, ax
    iretq

# Console bytes: rsi = bytes, rcx = count, 1 to the depth of the UART's FIFO.
# The FIFO is awaited once, then filled.
call_console_write:
    mov edx, {UART} + 5             # line status
1:  in  al, dx
    test al, 0x20                   # transmitter holding register empty
    jz  1b
    mov edx, {UART}
2:  lodsb
    out dx, al
    dec ecx
    jnz 2b
    iretq

# Wait for an interrupt, with what must be told to devices before it:
#   rdi = QueueNotify register, esi = queues to notify: bit 0, bit 1
#   ecx = count to load into PIT channel 0 (its low 16 bits), 0 = none
#   edx = not 0: there is work already, do not halt
# → eax = events since the last wait, one bit for each interrupt line
call_wait:
    test esi, 1
    jz  1f
    mov dword ptr [rdi], 0
1:  test esi, 2
    jz  2f
    mov dword ptr [rdi], 1
2:  jecxz 3f
    mov eax, ecx
    out {PIT_CHANNEL_0}, al
    mov al, ah
    out {PIT_CHANNEL_0}, al
3:  cli
    cmp dword ptr [events], 0
    jne 4f
    test edx, edx
    jnz 4f
    sti                             # takes effect after hlt has begun: no lost wake-up
    hlt
    cli
4:  mov eax, [events]
    mov dword ptr [events], 0
    iretq

# Gives ring 3 the interrupt flag and the right to ports of its own: for guests
# that want to be interrupted anywhere.
call_open_ring_3:
    or  qword ptr [rsp + 16], 0x3200    # IOPL 3, IF
    iretq

.section .rodata.nucleus, "a"
.balign 8
call_targets:
    .quad call_in8, call_in32, call_out8, call_out16
    .quad call_console_write, call_wait, call_open_ring_3

# ── Interrupts ──────────────────────────────────────────────────────────────
# Each one notes its line in `events` and folds itself and the place it
# interrupted into `trace`, which depends on their order: two runs that took
# the same interrupts at the same instructions have the same trace.
.macro note_interrupt line
    mov rax, [rsp + 16]             # the interrupted rip
    add rax, \line
    rol qword ptr [trace], 7
    xor [trace], rax
    or  dword ptr [events], 1 << \line
.endm

.macro end_interrupt
    mov al, 0x20                    # end of interrupt
    out 0x20, al
    pop rdx
    pop rax
    iretq
.endm

# A line that only has to be noted: the timer, the UART (whose receive buffer
# ring 3 empties; the line is an edge).
.macro edge_interrupt line
interrupt_\line:
    push rax
    push rdx
    note_interrupt \line
    end_interrupt
.endm

# A virtio-mmio device: its line is a level and falls when InterruptACK is
# written. Reading InterruptStatus first would be one more exit and tell
# nothing that the queues do not.
.macro virtio_interrupt line
interrupt_\line:
    push rax
    push rdx
    note_interrupt \line
    mov edx, {VIRTIO} + 0x200 * (\line - {VIRTIO_LINE}) + 0x64
    mov dword ptr [rdx], 3
    end_interrupt
.endm

.section .text.nucleus, "ax"
edge_interrupt 0
edge_interrupt 4
virtio_interrupt 5
virtio_interrupt 6

interrupt_spurious:                 # the PIC withdrew its request: no end of interrupt
    iretq

# ── Faults ──────────────────────────────────────────────────────────────────
# None is expected. The first one goes to ring 3 to be told to the console:
# guest_fault(vector, error code, rip, cr2, rsp). A fault in that ends it all.
.macro fault vector, has_code=0
fault_\vector:
  .if \has_code == 0
    push 0
  .endif
    push \vector
    jmp fault_common
.endm

fault 0
fault 1
fault 2
fault 4
fault 5
fault 6
fault 7
fault 8, 1
fault 10, 1
fault 11, 1
fault 12, 1
fault 13, 1
fault 14, 1
fault 16
fault 17, 1
fault 18
fault 19

fault_common:
    cmp dword ptr [faulted], 0
    jne reset
    mov dword ptr [faulted], 1
    pop rdi
    pop rsi
    mov rdx, [rsp]
    mov rcx, cr2
    mov r8, [rsp + 24]
    push {USER_DATA}
    mov eax, offset user_stack_top - 8
    push rax
    push 2
    push {USER_CODE}
    mov eax, offset guest_fault
    push rax
    iretq

reset:
    mov al, 0xFE
    out 0x64, al
1:  cli
    hlt
    jmp 1b

.section .rodata.nucleus, "a"
.balign 4
gate_targets:
    .long fault_0, fault_1, fault_2, door, fault_4, fault_5, fault_6, fault_7
    .long fault_8, reset, fault_10, fault_11, fault_12, fault_13, fault_14, reset
    .long fault_16, fault_17, fault_18, fault_19
    .rept 12
    .long reset
    .endr
    .long interrupt_0, interrupt_spurious, interrupt_spurious, interrupt_spurious
    .long interrupt_4, interrupt_5, interrupt_6, interrupt_spurious
    .rept 8
    .long interrupt_spurious
    .endr

.section .data.nucleus, "aw"
.balign 8
.global trace
trace:   .quad 0
events:  .long 0
faulted: .long 0
