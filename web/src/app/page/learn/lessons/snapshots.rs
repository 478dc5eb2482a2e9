//! Internal and external snapshots.

use super::super::goal::{Goal, figure};
use super::super::lesson::{Act, Group, Lesson, Shows, Step, Task};
use super::{invalid, read};

pub const LESSONS: &[Lesson] = &[TERMS, INTERNAL, EXTERNAL, REVERT];

const PLACES: &[(&str, u64, u32)] = &[("page (8 MiB)", 8 << 20, 24)];

const TERMS: Lesson = Lesson {
    id: "snapshot-terms",
    group: Group::Snapshots,
    topic: 4,
    title: "Four kinds of snapshots",
    recipe: "Disk: 0+2M=11 8M\"monday\"
        snapshot Disk monday
        write Disk: 8M\"tuesday\"
        Overlay < Disk: 8M\"wednesday\"",
    places: PLACES,
    shows: Shows::Nothing,
    steps: &[
        read(
            "Where is the past?",
            &[
                "An *internal* snapshot is kept inside the one qcow2 file: a name, and a table of the clusters as they were. The file goes on being written to; old clusters are kept as long as a snapshot needs them.",
                "An *external* snapshot is a file of its own: the old file is left alone from then on, as the backing file of a new overlay. *The snapshot is the old file*, not the new one.",
                "Either can be of the *disk* only, or a *checkpoint of the whole system* with the memory of the VM. An internal system checkpoint keeps the memory in the same qcow2 file (`savevm`); an external one in a file beside the disk's (`virsh snapshot-create-as --memspec`).",
                "The chain here has one of each place: `Disk` holds an internal disk snapshot called `monday`, and it is itself the external snapshot of tuesday, with `Overlay` on it.",
            ],
        ),
        Step {
            title: "Which is which?",
            text: &[],
            task: Task::Question {
                ask: "The state of tuesday is read from ...",
                answers: &[
                    (
                        "Overlay, because it is the file that the snapshot made",
                        false,
                        "Overlay holds what came after: wednesday.",
                    ),
                    (
                        "Disk, as it is now",
                        true,
                        "The old file is the external snapshot. That is why it must not be written to any more.",
                    ),
                    (
                        "the internal snapshot in Disk",
                        false,
                        "That one is monday, from before tuesday was written.",
                    ),
                ],
            },
        },
        Step {
            title: "And the memory?",
            text: &[],
            task: Task::Question {
                ask: "You want to go back to a running VM with its programs open, from a single qcow2 file. You need ...",
                answers: &[
                    (
                        "an internal disk snapshot",
                        false,
                        "It has the disk only. The VM would find it as after a power cut.",
                    ),
                    (
                        "an internal system checkpoint",
                        true,
                        "Disk and VM state, both within the file.",
                    ),
                    (
                        "an external disk snapshot",
                        false,
                        "No memory there, and two files.",
                    ),
                ],
            },
        },
    ],
};

const INTERNAL: Lesson = Lesson {
    id: "internal-snapshots",
    group: Group::Snapshots,
    topic: 5,
    title: "Internal snapshots: create, list, apply, delete",
    recipe: "Disk: 0+2M=11 8M\"monday\"",
    places: PLACES,
    shows: Shows::Nothing,
    steps: &[
        Step {
            title: "Create",
            text: &[
                "Take an internal snapshot of `Disk` and call it `before`. All clusters now have two owners, the disk and the snapshot; no data is copied.",
                "$ qemu-img snapshot -c before Disk.qcow2",
            ],
            task: Task::Do {
                act: Act::Snapshot {
                    layer: "Disk",
                    name: "before",
                },
                goal: figure("Disk@before"),
            },
        },
        Step {
            title: "Go on writing",
            text: &[
                "The guest turns the page. The old cluster belongs to the snapshot, so the new text goes to a new one.",
            ],
            task: Task::Do {
                act: Act::Write {
                    layer: "Disk",
                    writes: "8M\"tuesday\"",
                },
                goal: Goal {
                    figure: "Disk@before",
                    reads: &[("Disk", 0, "tuesday")],
                },
            },
        },
        read(
            "List",
            &[
                "The table names the snapshots of each file, as the list does. This is the only place where they can be seen: from outside it is one file like any other.",
                "$ qemu-img snapshot -l Disk.qcow2",
            ],
        ),
        Step {
            title: "Apply",
            text: &[
                "Go back: apply `before`. The disk becomes what it was; the snapshot stays and can be applied again.",
                "$ qemu-img snapshot -a before Disk.qcow2",
            ],
            task: Task::Do {
                act: Act::Revert {
                    layer: "Disk",
                    id: "1",
                    name: "before",
                },
                goal: Goal {
                    figure: "Disk@before",
                    reads: &[("Disk", 0, "monday")],
                },
            },
        },
        Step {
            title: "What is gone?",
            text: &[],
            task: Task::Question {
                ask: "Where is tuesday now?",
                answers: &[
                    (
                        "In a second snapshot that was taken on the way",
                        false,
                        "Nothing is kept unless you ask for it. The list has one snapshot.",
                    ),
                    (
                        "Nowhere",
                        true,
                        "Applying replaces the disk. Take a snapshot first if the present is worth keeping.",
                    ),
                ],
            },
        },
        Step {
            title: "Delete",
            text: &[
                "Delete the snapshot. The disk stays as it is; clusters that only the snapshot had become free inside the file.",
                "$ qemu-img snapshot -d before Disk.qcow2",
            ],
            task: Task::Do {
                act: Act::DeleteSnapshot {
                    layer: "Disk",
                    id: "1",
                    name: "before",
                },
                goal: Goal {
                    figure: "Disk@",
                    reads: &[("Disk", 0, "monday")],
                },
            },
        },
    ],
};

const EXTERNAL: Lesson = Lesson {
    id: "external-snapshot",
    group: Group::Snapshots,
    topic: 6,
    title: "Taking an external snapshot",
    recipe: "RootBase: 0+2M=11 8M\"monday\"",
    places: PLACES,
    shows: Shows::Nothing,
    steps: &[
        Step {
            title: "Take it",
            text: &[
                "An external snapshot of `RootBase` is an overlay on it: make `Snap-1`. From now on the VM writes to `Snap-1`, and RootBase keeps what it has.",
                "$ virsh snapshot-create-as VM snap-1 --disk-only --atomic",
                "$ qemu-img create -f qcow2 -b RootBase.qcow2 -F qcow2 Snap-1.qcow2",
            ],
            task: Task::Do {
                act: Act::Overlay {
                    on: "RootBase",
                    name: "Snap-1",
                },
                goal: figure("RootBase <- Snap-1"),
            },
        },
        Step {
            title: "Go on writing",
            text: &["The guest turns the page. Watch which file takes it."],
            task: Task::Do {
                act: Act::Write {
                    layer: "Snap-1",
                    writes: "8M\"tuesday\" 4M+1M=21",
                },
                goal: Goal {
                    figure: "RootBase <- Snap-1",
                    reads: &[("Snap-1", 0, "tuesday"), ("RootBase", 0, "monday")],
                },
            },
        },
        Step {
            title: "What was the snapshot?",
            text: &[],
            task: Task::Question {
                ask: "To keep the state of monday, which file has to be kept, and unchanged?",
                answers: &[
                    (
                        "RootBase",
                        true,
                        "It is the state of monday. The new file has what came after, and reads the rest from RootBase.",
                    ),
                    (
                        "Snap-1",
                        false,
                        "By its name it sounds so, but it holds tuesday.",
                    ),
                    (
                        "Neither: the snapshot is a third file",
                        false,
                        "There are two files, and nothing was copied.",
                    ),
                ],
            },
        },
    ],
};

const REVERT: Lesson = Lesson {
    id: "revert-external",
    group: Group::Snapshots,
    topic: 7,
    title: "Reverting an external snapshot",
    recipe: "RootBase: 0+2M=11 8M\"monday\"
        Snap-1 < RootBase: 8M\"tuesday\"
        Snap-2 < Snap-1: 4M+1M=21 8M\"broken by an update\"",
    places: PLACES,
    shows: Shows::Nothing,
    steps: &[
        read(
            "Back to an earlier layer",
            &[
                "Nothing has to be undone inside the files: the earlier layer still has its state. The VM is pointed at it, and what came after is dropped.",
                "Run the VM on a *fresh overlay* of the earlier layer rather than on that layer itself. Then you can go back once more, and nothing breaks that depends on it.",
            ],
        ),
        Step {
            title: "Go back",
            text: &["Leave `Snap-2` and go back to `Snap-1`, in a fresh overlay called `Retry`."],
            task: Task::Do {
                act: Act::GoBack {
                    from: "Snap-2",
                    to: "Snap-1",
                    name: "Retry",
                },
                goal: Goal {
                    figure: "RootBase <- Snap-1 <- Retry; Snap-1 <- Snap-2",
                    reads: &[("Retry", 0, "tuesday")],
                },
            },
        },
        invalid(),
        Step {
            title: "Drop what came after",
            text: &[
                "Nothing needs `Snap-2` any more. Delete it; with it goes all that was written since.",
            ],
            task: Task::Do {
                act: Act::Delete(&["Snap-2"]),
                goal: figure("RootBase <- Snap-1 <- Retry"),
            },
        },
    ],
};
