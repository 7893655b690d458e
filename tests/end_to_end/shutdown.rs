//! A guest whose CPU shuts down: a fault while a double fault is delivered.

use crate::harness::{World, protected};

/// Where the guest is loaded.
const ADDRESS: u64 = 0x20_0000;

/// A guest that makes a stack, pushes a word, calls, and meets an undefined instruction without
/// having an interrupt descriptor table: six instructions are done.
fn kernel() -> Vec<u8> {
    let mut code = vec![0x48, 0xBC]; // mov rsp, 0x300000
    code.extend(0x30_0000_u64.to_le_bytes());
    code.extend([0x48, 0xB8]); // mov rax, 0x1122334455667788
    code.extend(0x1122_3344_5566_7788_u64.to_le_bytes());
    code.push(0x50); // push rax
    code.extend([0xE8, 0, 0, 0, 0]); // call next
    let table = ADDRESS + code.len() as u64 + 10;
    code.extend([0x0F, 0x01, 0x1C, 0x25]); // next: lidt [table]
    code.extend((table as u32).to_le_bytes());
    code.extend([0x0F, 0x0B]); // ud2
    code.extend([0; 10]); // table: no bytes at 0
    elf(&code)
}

/// An x86-64 ELF executable with one segment, `code`, whose first byte is its entry.
fn elf(code: &[u8]) -> Vec<u8> {
    let len = code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // ET_EXEC for EM_X86_64; the program header stands behind the header.
    file.extend([2_u16, 62].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(1_u32.to_le_bytes());
    file.extend([ADDRESS, 64, 0].iter().flat_map(|long| long.to_le_bytes()));
    file.extend(0_u32.to_le_bytes());
    let sizes = [64_u16, 56, 1, 64, 0, 0];
    file.extend(sizes.iter().flat_map(|half| half.to_le_bytes()));
    // PT_LOAD, readable and executable.
    file.extend([1_u32, 5].iter().flat_map(|int| int.to_le_bytes()));
    let places = [120, ADDRESS, ADDRESS, len, len, 8];
    file.extend(places.iter().flat_map(|long| long.to_le_bytes()));
    file.extend(code);
    file
}

/// FAIL-10, DET-1: it is the guest's own end. Both nodes, and a replay, tell the same of it.
#[test]
fn fail_10_a_triple_fault_is_reported_by_both_nodes_and_nobody_takes_over() {
    let world = World::new(1);
    let image = world.dir.path().join("fault.elf");
    std::fs::write(&image, kernel()).expect("written");
    let image = image.to_str().expect("UTF-8");
    let guest = ["--kernel", image, "--cpu", "soft"];
    let mut primary = world.primary("node-a", &guest);
    let backup = world.backup("node-b", primary.address(), &guest);
    let (mut primary, mut backup) = protected(primary, backup);
    let reports = [&mut primary, &mut backup].map(|node| {
        assert_eq!(node.last_word(), "the VM was stopped");
        let report = node.wait_for("a report", |event| {
            let text = event["text"].as_str();
            text.is_some_and(|text| text.contains("triple fault"))
        });
        assert!(!node.has_said(|event| event["event"] == "live"));
        assert!(node.wait().success(), "{}", node.stderr());
        report["text"].as_str().expect("text").to_owned()
    });
    let [report, the_backups] = reports;
    assert_eq!(report, the_backups);
    for part in [
        "the guest's CPU met a triple fault at position 6, at 0x0000000000200022\n",
        "  rax    1122334455667788",
        "  rsp    00000000002ffff0",
        "  cs 0x0010, ss 0x0018, tr 0x0000\n",
        "  code at rip: 0f 0b 00",
        "  stack:\n    000000000020001a  1122334455667788  0000000000000000",
        "  executed, the latest last:\n    \
         0000000000200000  mov rsp,0x300000\n    \
         000000000020000a  mov rax,0x1122334455667788\n    \
         0000000000200014  push rax\n    \
         0000000000200015  call 0x20001a\n    \
         000000000020001a  lidt [0x200024]\n    \
         0000000000200022  ud2",
    ] {
        assert!(report.contains(part), "{part:?} in {report}");
    }
    for node in ["node-a", "node-b"] {
        let log = world.log(node);
        let log = log.to_str().expect("UTF-8");
        let (status, told) = world.ftvm(&["replay", log, "--kernel", image]);
        assert!(status.success(), "{told}");
        assert!(told.starts_with("AGREED  to the end of the log; the machine is off"));
        assert!(told.contains(&report), "{told}");
    }
}
