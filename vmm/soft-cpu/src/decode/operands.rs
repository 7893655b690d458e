//! From an instruction's operands to the fields of an [`Op`].

use iced_x86::{Instruction, InstructionInfoFactory, OpAccess, OpKind, Register};

use crate::core::{CodeSize, Core, seg};
use crate::fault::Fault;
use crate::flags::signed;
use crate::op::{
    ADDRESS, HAS_MEMORY, Handler, Leave, Op, SEGMENT_BASES, START, THROUGH_STACK, WRITES, ZERO,
    next,
};
use crate::ops::Kind;
use crate::state::UNUSABLE;

/// How an instruction is carried out.
#[derive(Clone, Copy)]
pub(crate) struct Lowering {
    pub(crate) run: Handler,
    /// Does the same but leaves the flags alone, for where nobody looks at them.
    pub(crate) quiet: Option<Handler>,
    /// The block ends behind it.
    pub(crate) ends: bool,
    /// It cannot fault or leave the block, and looks at the flags only as iced says.
    pub(crate) pure: bool,
    /// It takes its first operand from [`Op::base`], so a MOV in front of it need not be carried out.
    pub(crate) takes_base: bool,
    /// What it is for pairs of operations.
    pub(crate) kind: Option<Kind>,
    /// What it is for them where it leaves the flags alone.
    pub(crate) quiet_kind: Option<Kind>,
}

impl Lowering {
    /// An instruction that may fault.
    pub(crate) fn of(run: Handler) -> Lowering {
        Lowering {
            run,
            quiet: None,
            ends: false,
            pure: false,
            takes_base: false,
            kind: None,
            quiet_kind: None,
        }
    }

    /// An instruction behind which the block ends.
    pub(crate) fn last(run: Handler) -> Lowering {
        Lowering {
            ends: true,
            ..Lowering::of(run)
        }
    }
}

/// The number of a register as handlers use it. For bytes, see [`Core::get`].
pub(crate) fn number(register: Register) -> u8 {
    match register {
        Register::None => ZERO,
        Register::AH => 0x20,
        Register::CH => 0x21,
        Register::DH => 0x22,
        Register::BH => 0x23,
        gpr if gpr.is_gpr() => (gpr.full_register() as u32 - Register::RAX as u32) as u8,
        other => other.number() as u8,
    }
}

/// The size of an operand as handlers count it: `1 << S` bytes.
pub(crate) fn size_of(bytes: usize) -> usize {
    bytes.trailing_zeros() as usize
}

/// What a memory operand's address needs beyond base, index and displacement, if it needs anything.
pub(super) struct Operands {
    pub(super) op: Op,
    /// Comes before `op`, and computes [`ADDRESS`].
    pub(super) address: Option<Op>,
}

fn unlowered(_: &mut Core, _: &Op, _: &[Op]) -> Leave {
    unreachable!("every operation gets its handler before it runs")
}

const BLANK: Op = Op {
    run: unlowered,
    imm: 0,
    displacement: 0,
    dst: ZERO,
    src: ZERO,
    base: ZERO,
    index: ZERO,
    scale: 0,
    marks: 0,
    number: 0,
    len: 0,
    at: 0,
    extra: 0,
};

/// Fills in registers, immediates and memory operand of an instruction, decoded as if its block
/// began at address `start`. The first operand, if a register, is `dst`; another register is `src`.
pub(super) fn operands(instruction: &Instruction, start: u64, size: CodeSize) -> Operands {
    let mut op = BLANK;
    op.at = instruction.ip().wrapping_sub(start) as i16;
    op.len = instruction.len() as u8;
    let mut immediates = 0;
    let mut address = None;
    for i in 0..instruction.op_count() {
        match instruction.op_kind(i) {
            OpKind::Register => {
                let register = number(instruction.op_register(i));
                if i == 0 {
                    op.dst = register;
                } else if op.src == ZERO {
                    op.src = register;
                }
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                op.imm = instruction.near_branch_target().wrapping_sub(start);
                if size != CodeSize::Long {
                    op.imm = op.imm as i32 as u64;
                }
            }
            OpKind::FarBranch16 => {
                op.imm = u64::from(instruction.far_branch16());
                op.extra = instruction.far_branch_selector();
            }
            OpKind::FarBranch32 => {
                op.imm = u64::from(instruction.far_branch32());
                op.extra = instruction.far_branch_selector();
            }
            OpKind::Memory => {
                op.marks |= HAS_MEMORY;
                address = memory(instruction, start, size, &mut op);
            }
            _ => {
                if let Ok(value) = instruction.try_immediate(i) {
                    if immediates == 0 {
                        op.imm = value;
                    } else {
                        op.extra = value as u16;
                    }
                    immediates += 1;
                }
            }
        }
    }
    if !op.has_memory() {
        op.base = op.dst;
    }
    Operands { op, address }
}

/// The number of a segment register.
pub(crate) fn segment_number(register: Register) -> usize {
    register as usize - Register::ES as usize
}

fn memory(instruction: &Instruction, start: u64, size: CodeSize, op: &mut Op) -> Option<Op> {
    use iced_x86::Mnemonic;

    if instruction.mnemonic() == Mnemonic::Xlatb {
        // Its index is AL alone: the handler sees to the address.
        return None;
    }
    let segment = segment_number(instruction.memory_segment());
    // In 64-bit mode a prefix for SS, like those for CS, DS and ES, is ignored.
    let through_stack = match size {
        CodeSize::Long => {
            let stack_base = matches!(instruction.memory_base(), Register::RSP | Register::RBP);
            stack_base && segment < seg::FS
        }
        _ => segment == seg::SS,
    };
    if through_stack {
        op.marks |= THROUGH_STACK;
    }
    let (mut base, mut index) = (
        number(instruction.memory_base()),
        number(instruction.memory_index()),
    );
    let mut displacement = instruction.memory_displacement64();
    if instruction.is_ip_rel_memory_operand() {
        base = START;
        displacement = displacement.wrapping_sub(start);
    }
    let scale = instruction.memory_index_scale().trailing_zeros() as u8;
    // LEA adds no segment and touches no memory; INVLPG and the like add one, but touch none.
    let lea = instruction.mnemonic() == Mnemonic::Lea;
    let bytes = address_bytes(instruction);
    let mut extra_base = ZERO;
    if !lea && (size != CodeSize::Long || segment >= seg::FS) {
        extra_base = SEGMENT_BASES + segment as u8;
    }
    let simple = bytes == 8 && size == CodeSize::Long && displacement as i32 as u64 == displacement;
    if simple && extra_base != ZERO && index == ZERO {
        // The segment's base takes the place of the index.
        index = extra_base;
        extra_base = ZERO;
        op.scale = 0;
    } else {
        op.scale = scale;
    }
    if simple && extra_base == ZERO {
        op.base = base;
        op.index = index;
        op.displacement = displacement as i32;
        return None;
    }
    let prepare = Op {
        run: match (lea, size) {
            (true, _) => prepare_offset,
            (_, CodeSize::Long) => prepare_long,
            _ => prepare_checked,
        },
        imm: displacement,
        dst: extra_base,
        src: bytes,
        base,
        index,
        scale,
        marks: op.marks | writes_mark(instruction, size),
        at: op.at,
        len: op.len,
        extra: instruction.memory_size().size().max(1) as u16,
        displacement: bit_register(instruction),
        ..BLANK
    };
    op.base = ADDRESS;
    op.index = ZERO;
    op.scale = 0;
    op.displacement = 0;
    Some(prepare)
}

/// [`WRITES`] if the memory operand is written. Only outside 64-bit mode somebody asks.
fn writes_mark(instruction: &Instruction, size: CodeSize) -> u8 {
    if size == CodeSize::Long {
        return 0;
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let writes = (0..instruction.op_count()).any(|i| {
        instruction.op_kind(i) == OpKind::Memory
            && !matches!(
                info.op_access(i),
                OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
            )
    });
    if writes { WRITES } else { 0 }
}

/// For BT and its relatives with a bit number in a register, which moves the address: the register,
/// and above it the operand's size in bytes. Else zero.
fn bit_register(instruction: &Instruction) -> i32 {
    use iced_x86::Mnemonic::{Bt, Btc, Btr, Bts};
    let by_register = instruction.op1_kind() == OpKind::Register;
    if !by_register || !matches!(instruction.mnemonic(), Bt | Btc | Btr | Bts) {
        return 0;
    }
    let register = instruction.op1_register();
    (register.size() << 8) as i32 | i32::from(number(register))
}

/// How far a bit number moves an address, as [`bit_register`] describes it.
fn bit_displacement(core: &Core, register: i32) -> u64 {
    let number = register as u8;
    let bits = match register >> 8 {
        2 => signed::<1>(core.get::<1>(number)) >> 4 << 1,
        4 => signed::<2>(core.get::<2>(number)) >> 5 << 2,
        _ => signed::<3>(core.get::<3>(number)) >> 6 << 3,
    };
    bits as u64
}

/// The size of addresses: 2, 4 or 8 bytes.
fn address_bytes(instruction: &Instruction) -> u8 {
    let register = match (instruction.memory_base(), instruction.memory_index()) {
        (Register::None, index) => index,
        (base, _) => base,
    };
    match register {
        Register::None => instruction.memory_displ_size().clamp(2, 8) as u8,
        Register::RIP => 8,
        Register::EIP => 4,
        register => register.size() as u8,
    }
}

/// Base, index and displacement, cut to the size of addresses.
#[inline(always)]
fn offset(core: &Core, op: &Op) -> u64 {
    let sum = core.regs[usize::from(op.base & 31)]
        .wrapping_add(core.regs[usize::from(op.index & 31)] << (op.scale & 3))
        .wrapping_add(op.imm);
    let sum = if op.displacement == 0 {
        sum
    } else {
        sum.wrapping_add(bit_displacement(core, op.displacement))
    };
    sum & (!0 >> (64 - 8 * u32::from(op.src)))
}

fn prepare_offset(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    core.regs[usize::from(ADDRESS)] = offset(core, op);
    next(core, rest)
}

fn prepare_long(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let base = core.regs[usize::from(op.dst & 31)];
    core.regs[usize::from(ADDRESS)] = base.wrapping_add(offset(core, op));
    next(core, rest)
}

/// Outside 64-bit mode segments have limits, and addresses 32 bits. An operand that its segment does
/// not permit gets an address that no access permits either: so the fault comes when the operand is
/// accessed, behind those that precede it, and never for one that is not, such as a NOP's.
fn prepare_checked(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    const NOT_CANONICAL: u64 = 1 << 63;
    let offset = offset(core, op);
    let segment = usize::from(op.dst - SEGMENT_BASES);
    let (len, write) = (u64::from(op.extra), op.marks & WRITES != 0);
    let linear = core.segment_address_for(segment, offset, len, write);
    core.regs[usize::from(ADDRESS)] =
        linear.unwrap_or_else(|_| NOT_CANONICAL | core.segment_base(segment).wrapping_add(offset));
    next(core, rest)
}

impl Core {
    /// The linear address of an instruction, outside 64-bit mode.
    pub(crate) fn code_address(&self, rip: u64) -> Result<u64, Fault> {
        if rip > u64::from(self.segments[seg::CS].limit) {
            return Err(Fault::PROTECTION);
        }
        Ok(self.segment_base(seg::CS).wrapping_add(rip) & 0xFFFF_FFFF)
    }

    /// The linear address of `len` bytes to read at `offset` in a segment, outside 64-bit mode.
    pub(crate) fn segment_address(
        &self,
        segment: usize,
        offset: u64,
        len: u64,
    ) -> Result<u64, Fault> {
        self.segment_address_for(segment, offset, len, false)
    }

    /// Likewise, to read or to write.
    pub(crate) fn segment_address_for(
        &self,
        segment: usize,
        offset: u64,
        len: u64,
        write: bool,
    ) -> Result<u64, Fault> {
        const EXPAND_DOWN: u32 = 0b1_1100;
        const CODE: u32 = 0b1_1000;
        const READABLE_OR_WRITABLE: u32 = 0b10;
        const BIG: u32 = 1 << 14;
        let descriptor = &self.segments[segment];
        // Code is never written, and read only if it may be; data is always read.
        let code = descriptor.access & CODE == CODE;
        let permitted = if code || write {
            descriptor.access & READABLE_OR_WRITABLE != 0 && !(code && write)
        } else {
            true
        };
        let fault = if segment == seg::SS {
            Fault::STACK
        } else {
            Fault::PROTECTION
        };
        let last = offset + (len - 1);
        let limit = u64::from(descriptor.limit);
        let inside = if descriptor.access & EXPAND_DOWN == 0b1_0100 {
            let top = if descriptor.access & BIG == 0 {
                0xFFFF
            } else {
                0xFFFF_FFFF
            };
            offset > limit && last <= top
        } else {
            last <= limit
        };
        if !inside || !permitted || descriptor.access & UNUSABLE != 0 {
            return Err(fault);
        }
        Ok(self.segment_base(segment).wrapping_add(offset) & 0xFFFF_FFFF)
    }
}
