//! One KVM vCPU, with its `kvm_run` page behind safe methods.

use std::io;
use std::ptr::NonNull;

use kvm_bindings::{KVM_EXIT_IO_OUT, KVM_EXIT_MMIO, KVMIO, kvm_interrupt, kvm_xsave, kvm_xsave2};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::kick;

// kvm-ioctls 0.25 does not have it.
mod numbers {
    #![allow(missing_docs, reason = "the macro makes a bare public function")]
    use super::{KVMIO, ioctl_iow_nr, kvm_interrupt};
    ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);
}
use numbers::KVM_INTERRUPT;

/// Why `KVM_RUN` came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawExit {
    /// Port I/O: `count` accesses of `size` bytes each. Their data is in [`Vcpu::io_data`].
    Port {
        /// The port.
        port: u16,
        /// Bytes an access: 1, 2 or 4.
        size: u8,
        /// How many accesses a REP prefix made of it.
        count: u32,
        /// Whether the guest writes.
        write: bool,
    },
    /// An access to memory that is not RAM.
    Mmio {
        /// The guest-physical address.
        address: u64,
        /// 1 to 8 bytes.
        size: u8,
        /// What the guest writes, little-endian; `None` for a read.
        write: Option<u64>,
    },
    /// HLT.
    Halt,
    /// Triple fault.
    Shutdown,
    /// A signal, or `immediate_exit`, or [`Vcpu::stop_for_interrupts`].
    Interrupted,
    /// KVM cannot go on.
    Failed(String),
}

/// A vCPU of KVM.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    /// The data of the port I/O that the last run ended with.
    io: Option<(NonNull<u8>, usize)>,
}

// SAFETY: `io` points into the `kvm_run` mapping, which `fd` owns and which moves with it.
unsafe impl Send for Vcpu {}

impl Vcpu {
    pub(super) fn new(fd: VcpuFd) -> Self {
        Vcpu { fd, io: None }
    }

    /// The registers and state that KVM gives out by ioctl.
    #[must_use]
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Runs until the next exit. Answers to the last exit's reads must have been given.
    pub fn run(&mut self) -> RawExit {
        self.io = None;
        let run: *mut _ = self.fd.get_kvm_run();
        let exit = kick::while_armed(run, || match self.fd.run() {
            Ok(VcpuExit::IoOut(_, data)) => {
                self.io = Some((NonNull::from(&data[0]), data.len()));
                None
            }
            Ok(VcpuExit::IoIn(_, data)) => {
                self.io = Some((NonNull::from(&mut data[0]), data.len()));
                None
            }
            Ok(VcpuExit::MmioRead(address, data)) => Some(RawExit::Mmio {
                address,
                size: data.len() as u8,
                write: None,
            }),
            Ok(VcpuExit::MmioWrite(address, data)) => {
                let mut bytes = [0; 8];
                bytes[..data.len()].copy_from_slice(data);
                let write = Some(u64::from_le_bytes(bytes));
                Some(RawExit::Mmio {
                    address,
                    size: data.len() as u8,
                    write,
                })
            }
            Ok(VcpuExit::Hlt) => Some(RawExit::Halt),
            Ok(VcpuExit::IrqWindowOpen) => Some(RawExit::Interrupted),
            Ok(VcpuExit::Shutdown) => Some(RawExit::Shutdown),
            Ok(VcpuExit::InternalError) => Some(RawExit::Failed(String::new())),
            Ok(other) => Some(RawExit::Failed(format!("unexpected exit {other:?}"))),
            Err(error) if error.errno() == libc::EINTR => Some(RawExit::Interrupted),
            Err(error) => Some(RawExit::Failed(format!("KVM_RUN: {error}"))),
        });
        match exit {
            None => self.port_exit(),
            Some(RawExit::Interrupted) => {
                self.fd.set_kvm_immediate_exit(0);
                RawExit::Interrupted
            }
            Some(RawExit::Failed(why)) if why.is_empty() => RawExit::Failed(self.internal_error()),
            Some(exit) => exit,
        }
    }

    fn port_exit(&mut self) -> RawExit {
        // SAFETY: the exit was for port I/O, so this is the valid member of the union.
        let io = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.io };
        RawExit::Port {
            port: io.port,
            size: io.size,
            count: io.count,
            write: u32::from(io.direction) == KVM_EXIT_IO_OUT,
        }
    }

    fn internal_error(&mut self) -> String {
        // SAFETY: the exit was an internal error, so this is the valid member of the union.
        let internal = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal };
        let count = (internal.ndata as usize).min(internal.data.len());
        let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
        format!(
            "KVM internal error, suberror {}, at rip {rip:#x}, data {:x?}: this kind of KVM \
             cannot run an instruction of the guest",
            internal.suberror,
            &internal.data[..count]
        )
    }

    /// The data of the port I/O that the last [`Vcpu::run`] ended with: `count` times `size` bytes.
    pub fn io_data(&mut self) -> &mut [u8] {
        match self.io {
            // SAFETY: the range lies in the `kvm_run` mapping that `fd` owns, KVM gave it for this
            // exit, and nobody else has a reference to it while `self` is borrowed.
            Some((start, len)) => unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) },
            None => &mut [],
        }
    }

    /// Answers the memory-mapped read that the last [`Vcpu::run`] ended with.
    pub fn answer_mmio_read(&mut self, value: u64) {
        let run = self.fd.get_kvm_run();
        assert_eq!(
            run.exit_reason, KVM_EXIT_MMIO,
            "no memory-mapped read is open"
        );
        run.__bindgen_anon_1.mmio.data = value.to_le_bytes();
    }

    /// Whether an interrupt injected now would be taken at once, as of the last exit.
    pub fn takes_interrupts(&mut self) -> bool {
        let run = self.fd.get_kvm_run();
        run.ready_for_interrupt_injection != 0 && run.if_flag != 0
    }

    /// Whether a run ends, [`RawExit::Interrupted`], where an interrupt could be taken.
    pub fn stop_for_interrupts(&mut self, stop: bool) {
        self.fd.get_kvm_run().request_interrupt_window = stop.into();
    }

    /// Queues an interrupt for the next run.
    ///
    /// # Errors
    ///
    /// What KVM says.
    pub fn interrupt(&mut self, vector: u8) -> io::Result<()> {
        let interrupt = kvm_interrupt {
            irq: u32::from(vector),
        };
        // SAFETY: KVM_INTERRUPT reads one kvm_interrupt, which lives through the call.
        match unsafe { ioctl_with_ref(&self.fd, KVM_INTERRUPT(), &interrupt) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Completes the access that the last exit was for, without running the guest any further:
    /// only then are the registers those of an instruction boundary.
    ///
    /// # Errors
    ///
    /// If KVM did anything else.
    pub fn complete_access(&mut self) -> io::Result<()> {
        self.fd.set_kvm_immediate_exit(1);
        match self.run() {
            RawExit::Interrupted => Ok(()),
            other => Err(io::Error::other(format!(
                "instead of completing an access: {other:?}"
            ))),
        }
    }

    /// Sets the FPU and vector state from an XSAVE image.
    ///
    /// # Errors
    ///
    /// What KVM says.
    pub fn set_xsave(&self, xsave: &kvm_xsave) -> io::Result<()> {
        // SAFETY: KVM reads 4096 bytes, which `kvm_xsave` has: no dynamic XSAVE features are
        // enabled in this process, so the state needs no more.
        unsafe { self.fd.set_xsave(xsave) }.map_err(Into::into)
    }
}

const _: () = assert!(size_of::<kvm_xsave>() == 4096 && size_of::<kvm_xsave2>() >= 4096);
