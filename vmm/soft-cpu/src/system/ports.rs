//! IN and OUT, and who may use a port (SDM vol. 1, 19.5).

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::core::{Core, reg};
use crate::decode::Lowering;
use crate::devices::{Access, Target};
use crate::fault::Fault;
use crate::op::{Op, handler};

impl Core {
    /// Fails unless this privilege level may access the port.
    pub(crate) fn require_port(&mut self, port: u16, size: u8) -> Result<(), Fault> {
        if self.cpl <= self.iopl() {
            return Ok(());
        }
        self.require_in_bitmap(port, size)
    }

    /// The TSS has a bit for each port: all of the access's must be clear.
    fn require_in_bitmap(&mut self, port: u16, size: u8) -> Result<(), Fault> {
        const BITMAP_OFFSET: u64 = 0x66;
        let at = self
            .task_address(BITMAP_OFFSET, 2)
            .ok_or(Fault::PROTECTION)?;
        let bitmap = self.as_supervisor(|core| core.load::<1>(at))?;
        // Two bytes are read, since an access's bits may lie in both.
        let offset = bitmap + u64::from(port / 8);
        let at = self.task_address(offset, 2).ok_or(Fault::PROTECTION)?;
        let bits = self.as_supervisor(|core| core.load::<1>(at))? >> (port % 8);
        if bits & ((1 << size) - 1) != 0 {
            return Err(Fault::PROTECTION);
        }
        Ok(())
    }
}

/// The port of an instruction: in `imm` if `src` says so, else in DX.
fn port(core: &Core, op: &Op) -> u16 {
    if op.src != 0 {
        op.imm as u8 as u16
    } else {
        core.get::<1>(reg::RDX) as u16
    }
}

fn input<const S: usize>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let port = port(core, op);
    core.require_port(port, 1 << S)?;
    let value = core.devices.read(Target::Port(port), 1 << S)?;
    core.set::<S>(reg::RAX, value);
    Ok(())
}

fn output<const S: usize>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let port = port(core, op);
    core.require_port(port, 1 << S)?;
    core.post(Access {
        target: Target::Port(port),
        size: 1 << S,
        write: Some(core.get::<S>(reg::RAX)),
    });
    Ok(())
}

pub(super) fn select(instruction: &Instruction, op: &mut Op) -> Option<Lowering> {
    let (register, other, reads) = match instruction.mnemonic() {
        Mnemonic::In => (instruction.op0_register(), instruction.op1_kind(), true),
        Mnemonic::Out => (instruction.op1_register(), instruction.op0_kind(), false),
        _ => return None,
    };
    op.src = u8::from(other == OpKind::Immediate8);
    let run = match (reads, register.size()) {
        (true, 1) => handler!(input::<0>),
        (true, 2) => handler!(input::<1>),
        (true, _) => handler!(input::<2>),
        (false, 1) => handler!(output::<0>),
        (false, 2) => handler!(output::<1>),
        (false, _) => handler!(output::<2>),
    };
    Some(Lowering::of(run))
}
