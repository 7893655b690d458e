//! A program for the lockstep test: integers, floating point, strings, allocation, system calls.
//! It ends with status 7 if its results are right.

use std::collections::BTreeMap;

fn main() {
    let mut numbers: Vec<u64> = (0..40)
        .scan(1u64, |x, _| {
            *x = x
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            Some(*x >> 20)
        })
        .collect();
    let sum = numbers.iter().fold(0u64, |sum, x| sum.rotate_left(5) ^ x);
    numbers.sort_unstable();
    let sorted = numbers.windows(2).all(|pair| pair[0] <= pair[1]);

    let mut words = BTreeMap::new();
    for word in "to be or not to be that is the question".split(' ') {
        *words.entry(word.to_owned()).or_insert(0u32) += 1;
    }

    let root = (1..20).fold(0.0f64, |sum, x| sum + f64::from(x).sqrt() / 3.0);
    let single = (1..40).fold(1.0f32, |product, x| product * (1.0 + 1.0 / x as f32));
    let text = format!("{root:.12} {single:e} {sum:#x} {words:?}");
    let parsed: f64 = text.split(' ').next().unwrap().parse().unwrap();
    println!("{text}");

    let good = sorted && words["be"] == 2 && (parsed - root).abs() < 1e-9 && single > 39.9;
    std::process::exit(if good { 7 } else { 1 });
}
