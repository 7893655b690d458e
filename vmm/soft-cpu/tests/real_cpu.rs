//! The software CPU against the CPU of this machine: every instruction form that it claims, and a
//! whole program in lockstep.

#[cfg(target_arch = "x86_64")]
mod oracle;

#[cfg(target_arch = "x86_64")]
mod on_x86_64 {
    use super::oracle;

    /// A sample of cases of every claimed form: none differs, and none was left out.
    #[test]
    fn every_claimed_form_does_what_the_real_cpu_does() {
        use oracle::forms::{Mode, claimed, exemption, is_amd, only_faults};
        use oracle::tester::{Subject, Tester};

        /// Cases of each form.
        const CASES: u64 = 128;
        /// Sequences of instructions in each mode.
        const SEQUENCES: u64 = 20_000;
        /// The claimed forms, and those of them that cannot be compared on some host: 64-bit mode,
        /// compatibility mode. iced-x86 or the claim changed where these numbers do.
        const FORMS: [(usize, usize); 2] = [(1203, 26), (1111, 26)];

        // Where manuals leave a choice, this CPU decides as AMD's do, and the table of what is
        // undefined was completed on them. `examples/differential.rs` runs on any.
        if !is_amd() {
            eprintln!("SKIPPED: the sample wants a CPU of AMD's");
            return;
        }
        let mut tester = Tester::new();
        let (mut cases, mut failures, mut differing) = (0, Vec::new(), 0);
        let modes = [Mode::Long, Mode::Compatibility];
        for (mode, (all, at_most_exempt)) in modes.into_iter().zip(FORMS) {
            let (mut forms, mut exempt) = (0, 0);
            for code in claimed(mode) {
                forms += 1;
                if exemption(code, mode).is_some() {
                    exempt += 1;
                    continue;
                }
                let tally = tester.run(Subject::Form(code), mode, 1, 0..CASES);
                assert!(
                    tally.proper >= CASES / 2,
                    "{code:?}: {} cases in {mode:?}",
                    tally.proper
                );
                if only_faults(code).is_none() {
                    assert!(tally.completed > 0, "{code:?} never completed in {mode:?}");
                }
                cases += tally.cases;
                differing += tally.differing;
                failures.extend(tally.mismatches);
            }
            assert_eq!(forms, all, "claimed forms in {mode:?}");
            assert!(
                exempt <= at_most_exempt,
                "{exempt} forms not compared in {mode:?}"
            );
            println!("{mode:?}: {forms} forms, {exempt} of them not compared");
            let tally = tester.run(Subject::Sequence, mode, 1, 0..SEQUENCES);
            assert_eq!(tally.cases, SEQUENCES);
            cases += tally.cases;
            differing += tally.differing;
            failures.extend(tally.mismatches);
        }
        println!("{cases} cases");
        let shown = failures
            .iter()
            .take(10)
            .map(String::as_str)
            .collect::<String>();
        assert!(
            failures.is_empty(),
            "{differing} of {cases} cases differ, the first are:\n{shown}"
        );
    }

    /// A child is replaced when it dies, in the middle of a run: the new one must not mix up the
    /// first cases that it gets with its own start.
    #[test]
    fn a_new_child_executes_the_first_case_it_gets() {
        use oracle::case::CODE;
        use oracle::encode::decode;
        use oracle::fill::blank;
        use oracle::forms::Mode;
        use oracle::native::Native;

        // mov eax, 5
        let encoded = decode(&[0xB8, 5, 0, 0, 0], 0x800, Mode::Long).expect("it is claimed");
        for _ in 0..50 {
            let mut native = Native::new().expect("a child process starts");
            for _ in 0..2 {
                native.start(&[blank(&encoded)]).expect("it listens");
                let outcomes = native.finish().expect("it answers");
                let [outcome] = outcomes.as_slice() else {
                    panic!("{} outcomes", outcomes.len());
                };
                assert_eq!(outcome.vector, 3);
                assert_eq!(outcome.state.rip, CODE + 0x800 + 5 + 1);
                assert_eq!(outcome.state.general[0], 5);
            }
        }
    }

    /// Opcodes of later extensions are undefined.
    #[test]
    fn what_is_not_claimed_is_undefined() {
        let (tried, wrong) = oracle::unclaimed::undefined_opcodes(&mut oracle::guest::Guest::new());
        assert!(tried > 1000, "{tried} encodings");
        assert!(
            wrong.is_empty(),
            "{} of {tried}:\n{}",
            wrong.len(),
            wrong.concat()
        );
    }

    /// A static Rust program, with all that libc does before `main`.
    #[test]
    fn a_static_program_takes_the_same_steps_on_both_cpus() {
        use std::path::Path;
        use std::process::{Command, Stdio};

        /// The program takes some 50,000; that depends on libc.
        const LIMIT: u64 = 200_000;
        const AT_LEAST: u64 = 10_000;

        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lockstep-program");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/mixed.rs");
        let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let compiled = Command::new(compiler)
            .args([
                "--edition=2024",
                "-O",
                "-Cpanic=abort",
                "-Crelocation-model=static",
                "-Ctarget-feature=+crt-static",
                "-o",
            ])
            .args([program.as_os_str(), source.as_ref()])
            .status()
            .expect("rustc runs");
        assert!(compiled.success(), "the program compiles");
        // One by one, which names the instruction; and in whole blocks and traces.
        for stride in [1, 400] {
            let summary = oracle::lockstep::run(&program, &[], Stdio::null(), LIMIT, stride)
                .unwrap_or_else(|difference| panic!("{difference}"));
            assert_eq!(summary.status, Some(7), "{summary:?}");
            assert!(
                summary.steps >= AT_LEAST && summary.system_calls > 3,
                "{summary:?}"
            );
        }
    }
}

/// There is no CPU to compare with.
#[cfg(not(target_arch = "x86_64"))]
#[test]
fn skipped() {
    eprintln!("SKIPPED: the comparison with the real CPU needs an x86-64 host");
}
