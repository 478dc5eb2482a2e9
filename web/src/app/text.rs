//! Numbers as people read them.

use crate::protocol::{Kind, Role, State};

/// Bytes in binary units: `1.5 GiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut unit = 0;
    let mut divisor = 1024_u64;
    while count / divisor >= 1024 && unit + 1 < UNITS.len() {
        divisor *= 1024;
        unit += 1;
    }
    let tenths = (u128::from(count) * 10 + u128::from(divisor) / 2) / u128::from(divisor);
    let name = UNITS.get(unit).copied().unwrap_or("EiB");
    if tenths >= 1000 || tenths.is_multiple_of(10) {
        format!("{} {name}", tenths / 10)
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// `part` of `whole` as a number from 0 to 1.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for bars and percentages only")]
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        (part as f64 / whole as f64).clamp(0.0, 1.0)
    }
}

#[must_use]
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Base => "base",
        Role::Middle => "overlay",
        Role::Active => "active",
        Role::Single => "standalone",
        Role::Spare => "not needed",
    }
}

#[must_use]
pub fn state(state: State) -> &'static str {
    match state {
        State::Ok => "ok",
        State::Missing => "backing file missing",
        State::Loop => "loop",
        State::WrongLabel => "wrong format label",
        State::Invalid => "invalid",
        State::Damaged => "damaged",
    }
}

/// An operation's names: its hook, its label, its key, and what it is for.
pub struct Words {
    pub id: &'static str,
    pub label: &'static str,
    pub key: &'static str,
    pub what: &'static str,
    pub icon: &'static str,
}

#[must_use]
pub fn words(kind: Kind) -> Words {
    match kind {
        Kind::Commit => Words {
            id: "commit",
            label: "Commit",
            key: "c",
            what: "Merge layers down into a backing file. Layers in between, and other overlays on it, become invalid.",
            icon: "fa-level-down-alt",
        },
        Kind::Pull => Words {
            id: "pull",
            label: "Pull",
            key: "p",
            what: "Merge backing data up into an overlay. Nothing becomes invalid.",
            icon: "fa-level-up-alt",
        },
        Kind::Rebase => Words {
            id: "rebase",
            label: "Rebase",
            key: "r",
            what: "Give an overlay another backing file, keeping what it reads.",
            icon: "fa-exchange-alt",
        },
        Kind::Remove => Words {
            id: "remove",
            label: "Remove layer",
            key: "x",
            what: "Take one layer out of the middle of a chain.",
            icon: "fa-minus-circle",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn bytes_are_rounded_to_a_tenth_of_their_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1 KiB");
        assert_eq!(bytes(1_572_864), "1.5 MiB");
        assert_eq!(bytes(10 << 30), "10 GiB");
        assert_eq!(bytes(u64::MAX), "16 EiB");
    }
}
