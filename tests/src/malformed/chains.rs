//! Backing files: loops, missing and wrong ones.

use super::sound::{CLUSTER, L2, Patch, Sound, copied, sound};
use super::{Case, Content};

fn on(name: &'static str) -> Vec<u8> {
    sound(Sound {
        backing: Some(name),
        ..Sound::default()
    })
}

pub(super) fn cases() -> Vec<Case> {
    let case = |name: &str, base: &'static str| Case::new(name, on(base));
    let mut damaged_base = sound(Sound::default());
    damaged_base.put64(L2, copied(L2 + 512));
    let mut list = vec![
        case("loop-of-one", "image.qcow2"),
        case("loop-of-one-dotted", "./image.qcow2"),
        case("loop-of-two", "b.qcow2").with("b.qcow2", on("image.qcow2")),
        case("loop-of-three", "b.qcow2")
            .with("b.qcow2", on("c.qcow2"))
            .with("c.qcow2", on("image.qcow2")),
        case("loop-below", "b.qcow2").with("b.qcow2", on("b.qcow2")),
        case("backing-missing", "nothing.qcow2"),
        case("backing-missing-directory", "no/where/x.qcow2"),
        case("backing-is-a-directory", "."),
        case("backing-is-a-device", "/dev/zero"),
        case("backing-empty", "b.qcow2").with("b.qcow2", Vec::new()),
        case("backing-cut-off", "b.qcow2").with("b.qcow2", sound(Sound::default())[..90].to_vec()),
        case("backing-not-qcow2", "b.qcow2").with("b.qcow2", vec![0x55; 3 * CLUSTER]),
        case("backing-damaged", "b.qcow2").with("b.qcow2", damaged_base),
        case("backing-size-max", "b.qcow2").with("b.qcow2", {
            let mut base = sound(Sound::default());
            base.put64(24, u64::MAX);
            base
        }),
        case("name-with-percent", "%s%n%x.qcow2"),
    ];
    // A label that says raw above a qcow2 file: the guest would see its header.
    let mut raw = on("b.qcow2");
    raw.put32(116, 3);
    raw.put(120, b"raw\0\0");
    list.push(Case::new("backing-labelled-raw", raw).with("b.qcow2", sound(Sound::default())));
    // 300 overlays deep.
    let mut deep = Case::new("deep-300", on("n000.qcow2"));
    let mut name = *b"n000.qcow2";
    for n in 0..300u32 {
        let digits = |n: u32| format!("n{n:03}.qcow2");
        let mut bytes = on("n000.qcow2");
        name.copy_from_slice(digits(n + 1).as_bytes());
        bytes.put(1024, &name);
        // Only the head of each, so that the case stays small.
        let content = Content {
            bytes: [&bytes[..CLUSTER], &vec![0; 3 * CLUSTER]].concat(),
            ..Content::default()
        };
        deep = deep.with(&digits(n), content);
    }
    list.push(deep.with("n300.qcow2", sound(Sound::default())));
    list
}
