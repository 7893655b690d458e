# From the PVH entry (32-bit protected mode, no paging, ebx = start info) to
# ring 3 in long mode. Runs once, slowly, so it does only what ring 3 cannot.

.section .note.Xen, "a", @note
    .long 4, 4, 18                  # name size, value size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long _start

.section .text.boot, "ax"
.code32
.global _start
_start:
    cli
    cld
    mov esp, offset nucleus_stack_top
    mov esi, ebx                    # the start info, on its way to guest_main

    # .bss: also the page tables and the interrupt table.
    mov edi, offset __bss
    mov ecx, offset __bss_end
    sub ecx, edi
    shr ecx, 2
    xor eax, eax
    rep stosd

    # One to one, 4 GiB in 2 MiB pages, all for ring 3 as well. Accessed and
    # dirty bits are set from the start, so the CPU never writes to the tables.
    mov eax, offset page_directory_pointers
    or  eax, {TABLE}
    mov [page_map], eax
    mov eax, offset page_directories
    or  eax, {TABLE}
    mov edi, offset page_directory_pointers
    mov ecx, 4
1:  mov [edi], eax
    add edi, 8
    add eax, 0x1000
    dec ecx
    jnz 1b
    mov eax, {PAGE}
    mov edi, offset page_directories
    mov ecx, 2048
2:  mov [edi], eax
    add edi, 8
    add eax, 0x200000
    dec ecx
    jnz 2b
    # The page of the code is not written to, the stack above it cannot grow into it.
    mov dword ptr [page_directories + 8], 0x200000 + {PAGE_READ_ONLY}

    mov eax, 1 << 5                 # CR4: PAE
    mov cr4, eax
    mov eax, offset page_map
    mov cr3, eax
    mov ecx, 0xC0000080             # EFER: LME
    mov eax, 1 << 8
    xor edx, edx
    wrmsr
    mov eax, 0x80010021             # CR0: PG, WP, NE, PE
    mov cr0, eax
    lgdt [gdt_register]
    ljmp {KERNEL_CODE}, offset long_mode

.code64
long_mode:
    mov eax, {KERNEL_DATA}
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, offset nucleus_stack_top

    # The task segment says which stack the CPU takes when ring 3 is left.
    mov eax, offset tss
    mov [gdt + {TSS} + 2], ax
    shr eax, 16
    mov [gdt + {TSS} + 4], al
    mov [gdt + {TSS} + 7], ah
    mov eax, {TSS}
    ltr ax

    # The interrupt table: gate i leads to gate_targets[i]. Addresses are below
    # 4 GiB, so the upper half of a gate is zero.
    mov esi, esi                    # (start info: upper half cleared)
    mov edi, offset idt
    mov ebx, offset gate_targets
    mov ecx, {GATES}
3:  mov eax, [rbx]
    mov [rdi], ax
    mov word ptr [rdi + 2], {KERNEL_CODE}
    mov word ptr [rdi + 4], {INTERRUPT_GATE}
    shr eax, 16
    mov [rdi + 6], ax
    add rbx, 4
    add rdi, 16
    dec ecx
    jnz 3b
    # The door: ring 3 may use it, and it leaves the interrupt flag as it is.
    mov word ptr [idt + 16 * {DOOR} + 4], {TRAP_GATE_RING_3}
    lidt [idt_register]

    # To ring 3, interrupts disabled, as guest_main(start info).
    mov edi, esi
    push {USER_DATA}
    mov eax, offset user_stack_top - 8
    push rax
    push 2
    push {USER_CODE}
    mov eax, offset guest_main
    push rax
    iretq

.section .data.nucleus, "aw"
.balign 16
gdt:                                # accessed bits set: the CPU does not write here
    .quad 0
    .quad 0x00AF9B000000FFFF        # KERNEL_CODE
    .quad 0x00CF93000000FFFF        # KERNEL_DATA
    .quad 0x00AFFB000000FFFF        # USER_CODE
    .quad 0x00CFF3000000FFFF        # USER_DATA
    .quad 0x0000890000000067        # TSS, its base is filled in
    .quad 0
gdt_register:
    .word gdt_register - gdt - 1
    .quad gdt
idt_register:
    .word 16 * {GATES} - 1
    .quad idt
.balign 8
tss:
    .long 0
    .quad nucleus_stack_top         # RSP0
    .fill 92, 1, 0

.section .bss.nucleus, "aw", @nobits
.balign 4096
page_map:                .skip 4096
page_directory_pointers: .skip 4096
page_directories:        .skip 4 * 4096
idt:                     .skip 16 * {GATES}
.balign 16
                         .skip {NUCLEUS_STACK}
nucleus_stack_top:

.section .stack, "aw", @nobits
.balign 4096
                         .skip {USER_STACK}
user_stack_top:
