//! The handlers of packed integer, logical and shuffle instructions on XMM registers.

use iced_x86::Code;

use super::access::{binary, by_immediate, load, register, with_immediate};
use super::{host, integer as int};
use crate::core::Core;
use crate::op::{Handler, Leave, Op, attempt, next, reach};

/// The handler of a packed instruction.
pub(super) fn select(code: Code, op: &Op) -> Option<Handler> {
    Some(match code {
        Code::Paddb_xmm_xmmm128 => binary!(op, host::paddb),
        Code::Paddw_xmm_xmmm128 => binary!(op, host::paddw),
        Code::Paddd_xmm_xmmm128 => binary!(op, host::paddd),
        Code::Paddq_xmm_xmmm128 => binary!(op, host::paddq),
        Code::Psubb_xmm_xmmm128 => binary!(op, host::psubb),
        Code::Psubw_xmm_xmmm128 => binary!(op, host::psubw),
        Code::Psubd_xmm_xmmm128 => binary!(op, host::psubd),
        Code::Psubq_xmm_xmmm128 => binary!(op, host::psubq),
        Code::Paddsb_xmm_xmmm128 => binary!(op, host::paddsb),
        Code::Paddsw_xmm_xmmm128 => binary!(op, host::paddsw),
        Code::Paddusb_xmm_xmmm128 => binary!(op, host::paddusb),
        Code::Paddusw_xmm_xmmm128 => binary!(op, host::paddusw),
        Code::Psubsb_xmm_xmmm128 => binary!(op, host::psubsb),
        Code::Psubsw_xmm_xmmm128 => binary!(op, host::psubsw),
        Code::Psubusb_xmm_xmmm128 => binary!(op, host::psubusb),
        Code::Psubusw_xmm_xmmm128 => binary!(op, host::psubusw),
        Code::Pmullw_xmm_xmmm128 => binary!(op, host::pmullw),
        Code::Pmulhw_xmm_xmmm128 => binary!(op, host::pmulhw),
        Code::Pmulhuw_xmm_xmmm128 => binary!(op, host::pmulhuw),
        Code::Pmuludq_xmm_xmmm128 => binary!(op, host::pmuludq),
        Code::Pmaddwd_xmm_xmmm128 => binary!(op, host::pmaddwd),
        Code::Psadbw_xmm_xmmm128 => binary!(op, host::psadbw),
        Code::Pavgb_xmm_xmmm128 => binary!(op, host::pavgb),
        Code::Pavgw_xmm_xmmm128 => binary!(op, host::pavgw),
        Code::Pminub_xmm_xmmm128 => binary!(op, host::pminub),
        Code::Pminsw_xmm_xmmm128 => binary!(op, host::pminsw),
        Code::Pmaxub_xmm_xmmm128 => binary!(op, host::pmaxub),
        Code::Pmaxsw_xmm_xmmm128 => binary!(op, host::pmaxsw),
        Code::Pcmpeqb_xmm_xmmm128 => binary!(op, host::pcmpeqb),
        Code::Pcmpeqw_xmm_xmmm128 => binary!(op, host::pcmpeqw),
        Code::Pcmpeqd_xmm_xmmm128 => binary!(op, host::pcmpeqd),
        Code::Pcmpgtb_xmm_xmmm128 => binary!(op, host::pcmpgtb),
        Code::Pcmpgtw_xmm_xmmm128 => binary!(op, host::pcmpgtw),
        Code::Pcmpgtd_xmm_xmmm128 => binary!(op, host::pcmpgtd),
        Code::Packsswb_xmm_xmmm128 => binary!(op, host::packsswb),
        Code::Packssdw_xmm_xmmm128 => binary!(op, host::packssdw),
        Code::Packuswb_xmm_xmmm128 => binary!(op, host::packuswb),
        Code::Punpcklbw_xmm_xmmm128 => binary!(op, host::punpcklbw),
        Code::Punpcklwd_xmm_xmmm128 => binary!(op, host::punpcklwd),
        Code::Punpckldq_xmm_xmmm128 | Code::Unpcklps_xmm_xmmm128 => binary!(op, host::punpckldq),
        Code::Punpcklqdq_xmm_xmmm128 | Code::Unpcklpd_xmm_xmmm128 => binary!(op, host::punpcklqdq),
        Code::Punpckhbw_xmm_xmmm128 => binary!(op, host::punpckhbw),
        Code::Punpckhwd_xmm_xmmm128 => binary!(op, host::punpckhwd),
        Code::Punpckhdq_xmm_xmmm128 | Code::Unpckhps_xmm_xmmm128 => binary!(op, host::punpckhdq),
        Code::Punpckhqdq_xmm_xmmm128 | Code::Unpckhpd_xmm_xmmm128 => binary!(op, host::punpckhqdq),
        Code::Pand_xmm_xmmm128 | Code::Andps_xmm_xmmm128 | Code::Andpd_xmm_xmmm128 => {
            binary!(op, int::pand)
        }
        Code::Pandn_xmm_xmmm128 | Code::Andnps_xmm_xmmm128 | Code::Andnpd_xmm_xmmm128 => {
            binary!(op, int::pandn)
        }
        Code::Por_xmm_xmmm128 | Code::Orps_xmm_xmmm128 | Code::Orpd_xmm_xmmm128 => {
            binary!(op, int::por)
        }
        Code::Pxor_xmm_xmmm128 | Code::Xorps_xmm_xmmm128 | Code::Xorpd_xmm_xmmm128 => {
            binary!(op, int::pxor)
        }
        Code::Pshufd_xmm_xmmm128_imm8 => with_immediate!(op, int::pshufd),
        Code::Pshuflw_xmm_xmmm128_imm8 => with_immediate!(op, int::pshuflw),
        Code::Pshufhw_xmm_xmmm128_imm8 => with_immediate!(op, int::pshufhw),
        Code::Shufps_xmm_xmmm128_imm8 => with_immediate!(op, int::shufps),
        Code::Shufpd_xmm_xmmm128_imm8 => with_immediate!(op, int::shufpd),
        _ => return select_shift(code, op),
    })
}

fn select_shift(code: Code, op: &Op) -> Option<Handler> {
    Some(match code {
        Code::Psllw_xmm_xmmm128 => binary!(op, host::psllw),
        Code::Pslld_xmm_xmmm128 => binary!(op, host::pslld),
        Code::Psllq_xmm_xmmm128 => binary!(op, host::psllq),
        Code::Psrlw_xmm_xmmm128 => binary!(op, host::psrlw),
        Code::Psrld_xmm_xmmm128 => binary!(op, host::psrld),
        Code::Psrlq_xmm_xmmm128 => binary!(op, host::psrlq),
        Code::Psraw_xmm_xmmm128 => binary!(op, host::psraw),
        Code::Psrad_xmm_xmmm128 => binary!(op, host::psrad),
        Code::Psllw_xmm_imm8 => by_immediate!(host::psllw),
        Code::Pslld_xmm_imm8 => by_immediate!(host::pslld),
        Code::Psllq_xmm_imm8 => by_immediate!(host::psllq),
        Code::Psrlw_xmm_imm8 => by_immediate!(host::psrlw),
        Code::Psrld_xmm_imm8 => by_immediate!(host::psrld),
        Code::Psrlq_xmm_imm8 => by_immediate!(host::psrlq),
        Code::Psraw_xmm_imm8 => by_immediate!(host::psraw),
        Code::Psrad_xmm_imm8 => by_immediate!(host::psrad),
        Code::Pslldq_xmm_imm8 => by_immediate!(int::pslldq),
        Code::Psrldq_xmm_imm8 => by_immediate!(int::psrldq),
        _ => return None,
    })
}
