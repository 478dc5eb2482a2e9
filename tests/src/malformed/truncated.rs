//! Files that end too early, or that were never images.

use super::sound::{CLUSTER, Sound, sound};
use super::{Case, Content};

pub(super) fn cases() -> Vec<Case> {
    let whole = sound(Sound {
        snapshot: true,
        bitmap: true,
        ..Sound::default()
    });
    let ends = [
        1,
        3,
        4,
        7,
        8,
        24,
        71,
        72,
        103,
        104,
        112,
        511,
        512,
        1024,
        CLUSTER,
        CLUSTER + 8,
        2 * CLUSTER,
        2 * CLUSTER + 100,
        3 * CLUSTER,
        3 * CLUSTER + 4,
        4 * CLUSTER,
        4 * CLUSTER + 100,
        5 * CLUSTER,
        6 * CLUSTER + 1,
        8 * CLUSTER,
        8 * CLUSTER + 10,
        9 * CLUSTER,
        9 * CLUSTER + 50,
        10 * CLUSTER,
        11 * CLUSTER,
        12 * CLUSTER,
    ];
    let mut list: Vec<Case> = ends
        .iter()
        .map(|&end| Case::new(&format!("cut-at-{end}"), whole[..end].to_vec()))
        .collect();
    list.push(Case::new("empty", Vec::new()));
    list.push(Case::new("zeros", vec![0; 3 * CLUSTER]));
    list.push(Case::new("text", b"This is not an image.\n".to_vec()));
    let odd = Case::new("odd-length-behind", [whole, vec![0xff; 333]].concat());
    list.push(odd);
    let raw = b"QFI\xfb"
        .iter()
        .copied()
        .chain(1..=200)
        .collect::<Vec<u8>>();
    list.push(
        Case::new("raw-of-odd-size-labelled-qcow2", overlay_on("base.raw")).with("base.raw", raw),
    );
    // As much as any file system of the tests can hold.
    let huge = Content {
        len: Some(1 << 43),
        ..sound(Sound::default()).into()
    };
    list.push(Case::new("sparse-8-tebibytes", huge));
    list
}

fn overlay_on(name: &'static str) -> Vec<u8> {
    sound(Sound {
        backing: Some(name),
        ..Sound::default()
    })
}
