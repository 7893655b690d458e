//! What x87 instructions do with the state, by their opcode (SDM vol. 2, appendix B.17).
//!
//! An instruction is named as FOP names it: the low three bits of its first byte above its ModRM
//! byte. The core brings memory operands and takes effects on RFLAGS and AX; whatever can fault
//! there does so before anything here has changed.

use super::arith::{Arith, sqrt};
use super::compare::{Order, compare, examine};
use super::convert::{self, to_whole};
use super::env::{DENORMAL, Env, INVALID};
use super::format::{Class, F80, Operand, from_f32, from_f64, load};
use super::remainder::{Quotient, extract, remainder, scale};
use super::state::{C0, C1, C2, C3, CONDITIONS, Fpu};
use super::transcendental as trans;

/// What an instruction leaves outside the x87 state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// ZF, PF and CF become these, OF, AF and SF zero.
    Flags(u64),
    /// AX becomes this.
    Ax(u16),
}

/// A register form that means nothing: #UD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Undefined;

/// A store that is ready: what goes to memory, and what follows when it got there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Store {
    /// The bytes, in the low ones; `None` where an unmasked exception keeps memory as it is.
    pub(crate) bytes: Option<u128>,
    env: Env,
    fault: bool,
    pop: bool,
}

impl Fpu {
    /// Carries out a register form. `rflags` is for FCMOV.
    pub(crate) fn register(&mut self, fop: u16, rflags: u64) -> Result<Effect, Undefined> {
        let i = (fop & 7) as u8;
        let reg = (fop >> 3 & 7) as u8;
        match fop >> 8 & 7 {
            0 => match Arith::from_reg(reg) {
                Some(op) => self.arith(op, 0, i, false),
                None => self.compare_st(i, false, reg & 1),
            },
            1 => return self.escape1(fop).map(|()| Effect::None),
            2 => match (reg, i) {
                (5, 1) => self.compare_st(1, true, 2),
                (0..=3, _) => self.move_if(condition(reg, rflags), i),
                _ => return Err(Undefined),
            },
            3 => match (reg, i) {
                (0..=3, _) => self.move_if(!condition(reg, rflags), i),
                (5 | 6, _) => return Ok(self.compare_flags(i, reg == 5, false)),
                (4, 2) => self.clear_exceptions(),
                (4, 3) => self.initialise(),
                // FNENI, FNDISI, FNSETPM: nothing since the 80387.
                (4, 0 | 1 | 4) => {}
                _ => return Err(Undefined),
            },
            4 => match Arith::from_reg(reg) {
                Some(op) => self.arith(op, i, i, false),
                None => self.compare_st(i, false, reg & 1),
            },
            5 => match reg {
                0 => {
                    self.set_c1(false);
                    self.free(i);
                }
                1 => self.exchange(i),
                2 | 3 => self.store_st(i, reg == 3),
                4 | 5 => self.compare_st(i, true, reg & 1),
                _ => return Err(Undefined),
            },
            6 => match (reg, Arith::from_reg(reg)) {
                (_, Some(op)) => self.arith(op, i, i, true),
                (2, _) => self.compare_st(i, false, 1),
                _ if i == 1 => self.compare_st(1, false, 2),
                _ => return Err(Undefined),
            },
            _ => match (reg, i) {
                (0, _) => {
                    self.set_c1(false);
                    self.free(i);
                    self.pop();
                }
                (1, _) => self.exchange(i),
                (2 | 3, _) => self.store_st(i, true),
                (4, 0) => return Ok(Effect::Ax(self.status())),
                (5 | 6, _) => return Ok(self.compare_flags(i, reg == 5, true)),
                _ => return Err(Undefined),
            },
        }
        Ok(Effect::None)
    }

    /// D9 C0 to D9 FF.
    fn escape1(&mut self, fop: u16) -> Result<(), Undefined> {
        let i = (fop & 7) as u8;
        match fop & 0xff {
            0xc0..=0xc7 => match self.empty(i) {
                false => self.load_value(self.st(i), &self.env()),
                true if self.stack_fault(false) => {
                    self.rotate(7);
                    self.set_st(0, F80::INDEFINITE);
                }
                true => {}
            },
            0xc8..=0xcf => self.exchange(i),
            0xd0 => {}
            // FSTPNCE: FSTP without a stack fault.
            0xd8..=0xdf => {
                self.set_c1(false);
                if !self.empty(0) {
                    self.set_st(i, self.st(0));
                }
                self.pop();
            }
            0xe0 => self.unary(|v, _| v.negated()),
            0xe1 => self.unary(|v, _| v.magnitude()),
            0xe4 => self.test(),
            0xe5 => {
                let empty = self.empty(0);
                let found = examine(self.st(0));
                let found = if empty { found & C1 | C3 | C0 } else { found };
                self.set_conditions(CONDITIONS, found);
            }
            0xe8..=0xee => {
                let v = super::constants::constant(i, self.env().rounding);
                self.set_c1(false);
                self.push(v);
            }
            0xf0 => self.unary(trans::exp2_minus_1),
            0xf1 => self.binary_pop(trans::y_log2_x),
            0xf2 => self.with_second(trans::tangent),
            0xf3 => self.binary_pop(trans::arctangent),
            0xf4 => self.extract(),
            0xf5 => self.remainder(true),
            0xf6 => {
                self.rotate(7);
                self.set_c1(false);
            }
            0xf7 => {
                self.rotate(1);
                self.set_c1(false);
            }
            0xf8 => self.remainder(false),
            0xf9 => self.binary_pop(trans::y_log2_x_plus_1),
            0xfa => self.unary(sqrt),
            0xfb => self.with_second(trans::sine_cosine),
            0xfc => self.unary(to_whole),
            0xfd => self.scale(),
            0xfe => self.angle(trans::sine),
            0xff => self.angle(trans::cosine),
            _ => return Err(Undefined),
        }
        Ok(())
    }

    /// Bytes of the operand of a memory form that reads; `None` for one that does not.
    pub(crate) fn reads(fop: u16) -> Option<usize> {
        Some(match (fop >> 8 & 7, fop >> 3 & 7) {
            (0 | 2, _) | (1 | 3, 0) => 4,
            (4, _) | (5, 0) | (7, 5) => 8,
            (6, _) | (7, 0) | (1, 5) => 2,
            (3, 5) | (7, 4) => 10,
            _ => return None,
        })
    }

    /// Bytes of the operand of a memory form that writes; `None` for one that does not.
    pub(crate) fn writes(fop: u16) -> Option<usize> {
        Some(match (fop >> 8 & 7, fop >> 3 & 7) {
            (1 | 3, 2 | 3) => 4,
            (5, 2 | 3) | (7, 7) => 8,
            (7, 2 | 3) | (1 | 5, 7) => 2,
            (3, 7) | (7, 6) => 10,
            _ => return None,
        })
    }

    /// Carries out a memory form that reads, of which `data` holds the operand in its low bytes.
    pub(crate) fn memory_load(&mut self, fop: u16, data: u128) {
        let reg = (fop >> 3 & 7) as u8;
        let integer = |v: i64| Operand::from(F80::from_i64(v));
        let mut b = [0; 10];
        b.copy_from_slice(&data.to_le_bytes()[..10]);
        match (fop >> 8 & 7, reg) {
            (0, _) => self.arith_memory(reg, from_f32(data as u32)),
            (2, _) => self.arith_memory(reg, integer(i64::from(data as i32))),
            (4, _) => self.arith_memory(reg, from_f64(data as u64)),
            (6, _) => self.arith_memory(reg, integer(i64::from(data as i16))),
            (1, 5) => self.set_control(data as u16),
            (1, _) => self.load_operand(from_f32(data as u32)),
            (5, _) => self.load_operand(from_f64(data as u64)),
            (3, 0) => self.load_operand(integer(i64::from(data as i32))),
            (3, _) => self.load_value(F80::from_bytes(b), &self.env()),
            (_, 0) => self.load_operand(integer(i64::from(data as i16))),
            (_, 4) => self.load_value(convert::from_bcd(b), &self.env()),
            _ => self.load_operand(integer(data as i64)),
        }
    }

    /// Prepares a memory form that writes.
    pub(crate) fn memory_store(&self, fop: u16) -> Store {
        let (escape, reg) = (fop >> 8 & 7, fop >> 3 & 7);
        let mut env = self.env();
        let plain = |v: u16| Store {
            bytes: Some(u128::from(v)),
            env,
            fault: false,
            pop: false,
        };
        match (escape, reg) {
            (1, 7) => {
                return Store {
                    env: self.unchanged(),
                    ..plain(self.control)
                };
            }
            (5, 7) => {
                return Store {
                    env: self.unchanged(),
                    ..plain(self.status())
                };
            }
            _ => {}
        }
        let fault = self.empty(0);
        if fault {
            env.raise(INVALID);
        }
        let v = if fault { F80::INDEFINITE } else { self.st(0) };
        let bytes = match (escape, reg) {
            (3, 7) => Some(wide(v.to_bytes())),
            (7, 6) => convert::to_bcd(v, &mut env).map(wide),
            (1, _) => convert::to_f32(v, &mut env).map(u128::from),
            (5, _) => convert::to_f64(v, &mut env).map(u128::from),
            (3, _) => convert::to_integer(v, 32, &mut env).map(|v| u128::from(v as u32)),
            (7, 7) => convert::to_integer(v, 64, &mut env).map(|v| u128::from(v as u64)),
            _ => convert::to_integer(v, 16, &mut env).map(|v| u128::from(v as u16)),
        };
        let bytes = bytes.filter(|_| !env.blocked());
        Store {
            bytes,
            env,
            fault,
            pop: matches!(reg, 3 | 6 | 7),
        }
    }

    /// Ends a memory form that writes, when the bytes are in memory.
    pub(crate) fn stored(&mut self, fop: u16, store: &Store) {
        if matches!((fop >> 8 & 7, fop >> 3 & 7), (1 | 5, 7)) {
            return;
        }
        self.settle(&store.env);
        if store.fault {
            self.stack_fault(false);
        }
        if store.bytes.is_some() && store.pop {
            self.pop();
        }
    }

    fn unchanged(&self) -> Env {
        self.env()
    }

    fn load_operand(&mut self, op: Operand) {
        let mut env = self.env();
        let v = load(op, &mut env);
        // #D comes with the number loaded, masked or not.
        env.masks |= DENORMAL;
        self.load_value(v, &env);
    }

    fn load_value(&mut self, v: F80, env: &Env) {
        if !self.empty(7) {
            return self.push(v);
        }
        if self.settle(env) {
            self.push(v);
        }
    }

    fn exchange(&mut self, i: u8) {
        let fault = self.empty(0) || self.empty(i);
        if fault {
            if !self.stack_fault(false) {
                return;
            }
        } else {
            self.set_c1(false);
        }
        let value = |f: &Fpu, i| if f.empty(i) { F80::INDEFINITE } else { f.st(i) };
        let (a, b) = (value(self, 0), value(self, i));
        self.set_st(0, b);
        self.set_st(i, a);
    }

    fn store_st(&mut self, i: u8, pop: bool) {
        let mut v = self.st(0);
        if self.empty(0) {
            if !self.stack_fault(false) {
                return;
            }
            v = F80::INDEFINITE;
        } else {
            self.set_c1(false);
        }
        self.set_st(i, v);
        if pop {
            self.pop();
        }
    }

    fn move_if(&mut self, holds: bool, i: u8) {
        if self.empty(0) || self.empty(i) {
            if self.stack_fault(false) {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        if holds {
            self.set_st(0, self.st(i));
        }
    }

    fn clear_exceptions(&mut self) {
        self.bits &= CONDITIONS;
    }

    fn arith(&mut self, op: Arith, to: u8, i: u8, pop: bool) {
        if self.empty(0) || self.empty(i) {
            if self.stack_fault(false) {
                self.set_st(to, F80::INDEFINITE);
                if pop {
                    self.pop();
                }
            }
            return;
        }
        let mut env = self.env();
        let (a, b) = (self.st(0).into(), self.st(i).into());
        let v = op.apply(a, b, &mut env);
        if self.settle(&env) {
            self.set_st(to, v);
            if pop {
                self.pop();
            }
        }
    }

    fn arith_memory(&mut self, reg: u8, b: Operand) {
        let Some(op) = Arith::from_reg(reg) else {
            return self.compare_operand(b, false, reg & 1, self.empty(0));
        };
        if self.empty(0) {
            if self.stack_fault(false) {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        let mut env = self.env();
        let v = op.apply(self.st(0).into(), b, &mut env);
        if self.settle(&env) {
            self.set_st(0, v);
        }
    }

    fn compare_st(&mut self, i: u8, quiet: bool, pops: u8) {
        let fault = self.empty(0) || self.empty(i);
        self.compare_operand(self.st(i).into(), quiet, pops, fault);
    }

    fn compare_operand(&mut self, b: Operand, quiet: bool, pops: u8, fault: bool) {
        let mut env = self.env();
        let (order, go) = if fault {
            (Order::Unordered, self.stack_fault(false))
        } else {
            let order = compare(self.st(0).into(), b, quiet, &mut env);
            (order, self.settle(&env))
        };
        self.set_conditions(C0 | C2 | C3, order.conditions());
        if go {
            for _ in 0..pops {
                self.pop();
            }
        }
    }

    fn compare_flags(&mut self, i: u8, quiet: bool, pop: bool) -> Effect {
        let mut env = self.env();
        let (order, go) = if self.empty(0) || self.empty(i) {
            (Order::Unordered, self.stack_fault(false))
        } else {
            let order = compare(self.st(0).into(), self.st(i).into(), quiet, &mut env);
            self.bits |= env.flags;
            (order, !env.blocked())
        };
        if go && pop {
            self.pop();
        }
        Effect::Flags(order.flags())
    }

    fn test(&mut self) {
        self.compare_operand(F80::ZERO.into(), false, 0, self.empty(0));
    }

    fn unary(&mut self, op: impl Fn(F80, &mut Env) -> F80) {
        if self.empty(0) {
            if self.stack_fault(false) {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        let mut env = self.env();
        let v = op(self.st(0), &mut env);
        if self.settle(&env) {
            self.set_st(0, v);
        }
    }

    /// `ST(1) = op(ST(0), ST(1))`, then a pop.
    fn binary_pop(&mut self, op: impl Fn(F80, F80, &mut Env) -> F80) {
        let mut v = F80::INDEFINITE;
        let go = if self.empty(0) || self.empty(1) {
            self.stack_fault(false)
        } else {
            let mut env = self.env();
            v = op(self.st(0), self.st(1), &mut env);
            self.settle(&env)
        };
        if go {
            self.set_st(1, v);
            self.pop();
        }
    }

    fn scale(&mut self) {
        let mut v = F80::INDEFINITE;
        let go = if self.empty(0) || self.empty(1) {
            self.stack_fault(false)
        } else {
            let mut env = self.env();
            v = scale(self.st(0), self.st(1), &mut env);
            self.settle(&env)
        };
        if go {
            self.set_st(0, v);
        }
    }

    fn remainder(&mut self, nearest: bool) {
        self.set_conditions(C1 | C2, 0);
        if self.empty(0) || self.empty(1) {
            if self.stack_fault(false) {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        let mut env = self.env();
        let (v, quotient) = remainder(self.st(0), self.st(1), nearest, &mut env);
        if !self.settle(&env) {
            return;
        }
        self.set_st(0, v);
        match quotient {
            Quotient::None => {}
            Quotient::Partial => self.set_conditions(CONDITIONS, C2),
            Quotient::Low(q) => {
                let bit = |n: u8, c: u16| if q >> n & 1 != 0 { c } else { 0 };
                self.set_conditions(CONDITIONS, bit(0, C1) | bit(1, C3) | bit(2, C0));
            }
        }
    }

    fn extract(&mut self) {
        self.push_second(|v, env| {
            let (exp, sig) = extract(v, env);
            (exp, sig)
        });
    }

    /// `ST(0)` becomes the first result and the second is pushed; both indefinite on #IS.
    fn push_second(&mut self, op: impl Fn(F80, &mut Env) -> (F80, F80)) {
        let (mut first, mut second) = (F80::INDEFINITE, F80::INDEFINITE);
        let overflow = !self.empty(7);
        let go = if self.empty(0) || overflow {
            self.stack_fault(overflow && !self.empty(0))
        } else {
            let mut env = self.env();
            (first, second) = op(self.st(0), &mut env);
            self.settle(&env)
        };
        if go {
            self.set_st(0, first);
            self.rotate(7);
            self.set_st(0, second);
        }
    }

    /// FSIN, FCOS: C2 says that the operand is out of range.
    fn angle(&mut self, op: impl Fn(F80, &mut Env) -> F80) {
        if self.out_of_range() {
            return;
        }
        self.set_conditions(C2, 0);
        self.unary(op);
    }

    /// FPTAN, FSINCOS.
    fn with_second(&mut self, op: impl Fn(F80, &mut Env) -> (F80, F80)) {
        // A stack fault goes before.
        if self.empty(7) && self.out_of_range() {
            return;
        }
        self.set_conditions(C2, 0);
        self.push_second(op);
    }

    fn out_of_range(&mut self) -> bool {
        let out = !self.empty(0) && matches!(self.st(0).class(), Class::Finite(x) if x.exp >= 63);
        if out {
            self.set_conditions(C1 | C2, C2);
        }
        out
    }
}

fn wide(b: [u8; 10]) -> u128 {
    b.iter().rev().fold(0, |v, &b| v << 8 | u128::from(b))
}

/// CF, ZF, CF or ZF, PF: what the four FCMOV of DA ask for.
fn condition(reg: u8, rflags: u64) -> bool {
    rflags & [1, 0x40, 0x41, 4][usize::from(reg)] != 0
}
