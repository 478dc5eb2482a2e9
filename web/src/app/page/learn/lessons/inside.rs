//! Looking inside, and watching a long merge.

use super::super::goal::{Goal, figure};
use super::super::lesson::{Act, Group, Lesson, Shows, Step, Task};
use super::read;

pub const LESSONS: &[Lesson] = &[INSIDE, PROGRESS];

const INSIDE: Lesson = Lesson {
    id: "look-inside",
    group: Group::Inside,
    topic: 16,
    title: "Looking inside, before and after",
    recipe: "RootBase: 0+3M=11 8M\"kernel 5.10\" 20M\"root:x:0:0\"
        Snap-1 < RootBase: 20M\"root:x:0:0 kashyap:x:1000\"
        Active < Snap-1: 7M+1M=51 33M\"the report is done\"",
    places: &[
        ("kernel (8 MiB)", 8 << 20, 24),
        ("users (20 MiB)", 20 << 20, 32),
    ],
    shows: Shows::Looks,
    steps: &[
        read(
            "Check the result, read-only",
            &[
                "After a merge, look: does the guest still find its files? The source document uses guestfish, which starts a small VM of its own and opens the disk read-only:",
                "$ guestfish --ro -i -a Active.qcow2",
                "Or without it, as a block device that can be mounted (`-r` keeps it read-only):",
                "$ qemu-nbd -r -c /dev/nbd0 Active.qcow2",
                "! `qemu-img check` does not do this. It tells whether a file's tables are sound, not whether the disk reads what it should: after a commit that went into the wrong base, check is satisfied.",
                "This page has no file systems. It shows the bytes themselves: which layer has them, and what is at each place of the guest's disk.",
            ],
        ),
        Step {
            title: "Find the report",
            text: &[
                "Choose `Active`, open *Bytes* on the guest's disk, and search for the text `report`. It is in none of the places that the table shows.",
            ],
            task: Task::Question {
                ask: "At which place of the guest's disk is the report?",
                answers: &[
                    ("8 MiB (0x800000)", false, "There is the kernel."),
                    ("20 MiB (0x1400000)", false, "There are the users."),
                    (
                        "33 MiB (0x2100000)",
                        true,
                        "Only Active has it. The other layers read zeros there.",
                    ),
                ],
            },
        },
        Step {
            title: "Merge",
            text: &[
                "Commit `Snap-1` into `RootBase`, and look again: Active has to read the same as before.",
            ],
            task: Task::Do {
                act: Act::Commit {
                    top: "Snap-1",
                    base: "RootBase",
                    force: false,
                },
                goal: Goal {
                    figure: "RootBase <- Active; Snap-1!",
                    reads: &[
                        ("Active", 0, "kernel 5.10"),
                        ("Active", 1, "root:x:0:0 kashyap:x:1000"),
                    ],
                },
            },
        },
        Step {
            title: "Where are the users now?",
            text: &[],
            task: Task::Question {
                ask: "The guest on Active reads the list of users. Which file has it now?",
                answers: &[
                    (
                        "Snap-1",
                        false,
                        "It still has its copy, but nobody reads through it any more.",
                    ),
                    (
                        "RootBase",
                        true,
                        "It was merged there. The guest reads the same from another file.",
                    ),
                    (
                        "Active",
                        false,
                        "A commit moves data down. Active got a new link and no data.",
                    ),
                ],
            },
        },
    ],
};

const PROGRESS: Lesson = Lesson {
    id: "progress",
    group: Group::Inside,
    topic: 17,
    title: "Progress of a long merge",
    recipe: LONG,
    places: &[("end of it (1000 MiB)", 1000 << 20, 24)],
    shows: Shows::Nothing,
    steps: &[
        Step {
            title: "Start it, and change your mind",
            text: &[
                "A merge takes as long as its data needs. On the command line it counts up to `Block Commit: [100 %]`. Here it has a bar.",
                "Commit `Snap-1` into `RootBase`, and press *Cancel* before it is done.",
            ],
            task: Task::Stop {
                act: Act::Commit {
                    top: "Snap-1",
                    base: "RootBase",
                    force: false,
                },
            },
        },
        Step {
            title: "What is left?",
            text: &[],
            task: Task::Question {
                ask: "The merge was cancelled half-way. What about the files?",
                answers: &[
                    (
                        "They are as they were",
                        true,
                        "A browser puts a file in place when it is complete, and not before. On a command line base has changed already, and top still reads right: run it again.",
                    ),
                    (
                        "RootBase is half merged and has to be restored",
                        false,
                        "Look at the figure: the chain is whole, and each file passes its check.",
                    ),
                ],
            },
        },
        Step {
            title: "Now all of it",
            text: &["Run it again, and let it come to its end."],
            task: Task::Do {
                act: Act::Commit {
                    top: "Snap-1",
                    base: "RootBase",
                    force: false,
                },
                goal: figure("RootBase <- Active; Snap-1!"),
            },
        },
    ],
};

/// Long enough to be seen, and to be stopped.
pub(super) const LONG: &str = "RootBase 1024M: 0+1M=11
    Snap-1 < RootBase: 8M+160M=21 1000M\"the end\"
    Active < Snap-1: 4M+64K=31";
