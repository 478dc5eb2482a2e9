//! What `info` says about a LUKS header.

use backchain::format::luks::{Header, KeySlot};
use serde_json::{Map, Value, json};

/// QEMU's `QCryptoBlockInfoLUKS`. Inside a qcow2 image the format is said too.
pub(crate) fn facts(header: &Header, in_qcow2: bool) -> Value {
    let cipher = &header.cipher;
    let mut map = Map::new();
    let mut set = |key: &str, value: Value| {
        map.insert(key.to_owned(), value);
    };
    set("ivgen-alg", json!(cipher.iv.to_string()));
    set("detached-header", json!(header.payload_offset == 0));
    set("hash-alg", json!(header.hash.to_string()));
    set("cipher-alg", json!(cipher.algorithm.to_string()));
    set("uuid", json!(header.uuid));
    if let Some(hash) = cipher.iv_hash {
        set("ivgen-hash-alg", json!(hash.to_string()));
    }
    if in_qcow2 {
        set("format", json!("luks"));
    }
    set("cipher-mode", json!(cipher.mode.to_string()));
    set("slots", header.slots.iter().map(slot).collect());
    set("payload-offset", json!(header.payload_offset));
    set("master-key-iters", json!(header.digest_iterations));
    Value::Object(map)
}

fn slot(slot: &KeySlot) -> Value {
    if slot.active {
        json!({
            "active": true,
            "iters": slot.iterations,
            "key-offset": slot.key_offset,
            "stripes": slot.stripes,
        })
    } else {
        json!({"active": false, "key-offset": slot.key_offset})
    }
}
