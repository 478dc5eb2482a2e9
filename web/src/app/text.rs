//! Numbers as people read them.

use crate::protocol::{Kind, Role, State};
pub use crate::units::bytes;

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
