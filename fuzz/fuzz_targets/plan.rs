//! Two files, an overlay and its base: every plan is refused or runs through.
#![no_main]

use backchain::chain::MapGate;
use backchain::{Format, Operation, Source, Tree};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|files: (Vec<u8>, Vec<u8>)| {
    let (top, base): (Source, Source) = (Arc::new(files.0), Arc::new(files.1));
    let mut gate = MapGate::default();
    gate.0.insert("top".to_owned(), top);
    gate.0.insert("base".to_owned(), base);
    let mut tree = Tree::new();
    let Ok(top) = tree.add(&gate, "top", Some(Format::Qcow2)) else {
        return;
    };
    let mut operations = vec![Operation::Pull {
        overlay: top,
        base: None,
    }];
    if let Some(base) = tree.backing(top) {
        operations.push(Operation::Commit {
            top,
            base,
            relink: Vec::new(),
            empty_top: true,
            bitmaps: false,
            allow_broken: true,
            allow_plaintext: true,
        });
    }
    for operation in operations {
        if let Ok(plan) = tree.plan(&operation) {
            for step in plan.take(10_000) {
                if step.is_err() {
                    break;
                }
            }
        }
    }
});
