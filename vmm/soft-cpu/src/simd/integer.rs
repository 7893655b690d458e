//! What shuffles and logical instructions compute, on 128 bits. MMX ones use the low half.

/// `pand`, `andps`, `andpd`.
#[inline(always)]
pub(crate) fn pand(a: u128, b: u128) -> u128 {
    a & b
}

/// `pandn`, `andnps`, `andnpd`.
#[inline(always)]
pub(crate) fn pandn(a: u128, b: u128) -> u128 {
    !a & b
}

/// `por`, `orps`, `orpd`.
#[inline(always)]
pub(crate) fn por(a: u128, b: u128) -> u128 {
    a | b
}

/// `pxor`, `xorps`, `xorpd`.
#[inline(always)]
pub(crate) fn pxor(a: u128, b: u128) -> u128 {
    a ^ b
}

/// `pslldq` by a number of bytes.
#[inline(always)]
pub(crate) fn pslldq(a: u128, bytes: u128) -> u128 {
    if bytes > 15 {
        0
    } else {
        a << (8 * bytes as u32)
    }
}

/// `psrldq` by a number of bytes.
#[inline(always)]
pub(crate) fn psrldq(a: u128, bytes: u128) -> u128 {
    if bytes > 15 {
        0
    } else {
        a >> (8 * bytes as u32)
    }
}

fn words(a: u128) -> [u16; 8] {
    std::array::from_fn(|i| (a >> (16 * i)) as u16)
}

fn from_words(w: [u16; 8]) -> u128 {
    w.iter().rev().fold(0, |v, &w| v << 16 | u128::from(w))
}

#[inline(always)]
fn doublewords(a: u128) -> [u32; 4] {
    [
        a as u32,
        (a >> 32) as u32,
        (a >> 64) as u32,
        (a >> 96) as u32,
    ]
}

#[inline(always)]
fn from_doublewords(d: [u32; 4]) -> u128 {
    let [a, b, c, d] = d.map(u128::from);
    a | b << 32 | c << 64 | d << 96
}

/// Two bits of an immediate.
#[inline(always)]
fn choice(order: u8, i: usize) -> usize {
    usize::from(order >> (2 * i) & 3)
}

/// `pshufd` of `b`.
#[inline(always)]
pub(crate) fn pshufd(_: u128, b: u128, order: u8) -> u128 {
    let from = doublewords(b);
    from_doublewords(std::array::from_fn(|i| from[choice(order, i)]))
}

/// `pshuflw` of `b`; `pshufw`, too.
pub(crate) fn pshuflw(_: u128, b: u128, order: u8) -> u128 {
    let from = words(b);
    from_words(std::array::from_fn(|i| {
        from[if i < 4 { choice(order, i) } else { i }]
    }))
}

/// `pshufhw` of `b`.
pub(crate) fn pshufhw(_: u128, b: u128, order: u8) -> u128 {
    let from = words(b);
    from_words(std::array::from_fn(|i| {
        from[if i < 4 { i } else { 4 + choice(order, i - 4) }]
    }))
}

/// `shufps`.
pub(crate) fn shufps(a: u128, b: u128, order: u8) -> u128 {
    let (a, b) = (doublewords(a), doublewords(b));
    from_doublewords(std::array::from_fn(|i| {
        if i < 2 {
            a[choice(order, i)]
        } else {
            b[choice(order, i)]
        }
    }))
}

/// `shufpd`.
pub(crate) fn shufpd(a: u128, b: u128, order: u8) -> u128 {
    let half = |v: u128, high: u8| u128::from((v >> (64 * u32::from(high))) as u64);
    half(a, order & 1) | half(b, order >> 1 & 1) << 64
}
