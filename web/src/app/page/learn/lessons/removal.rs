//! Rebase, and taking a layer out of the middle.

use super::super::goal::figure;
use super::super::lesson::{Act, Group, Lesson, Shows, Step, Task};
use super::{invalid, read};

pub const LESSONS: &[Lesson] = &[METHOD_1, METHOD_2];

const SN: &str = "base: 0+3M=11 8M\"kernel 5.10\" 9M\"day 0\"
    sn1 < base: 4M+1M=21 9M\"day 1\"
    sn2 < sn1: 5M+1M=31 8M\"kernel 6.1\" 9M\"day 2\"
    sn3 < sn2: 7M+1M=51 9M\"day 3\"";

const PLACES: &[(&str, u64, u32)] = &[
    ("kernel (8 MiB)", 8 << 20, 24),
    ("diary (9 MiB)", 9 << 20, 24),
];

const METHOD_1: Lesson = Lesson {
    id: "remove-method-1",
    group: Group::Removal,
    topic: 14,
    title: "Deleting a middle snapshot, Method 1",
    recipe: SN,
    places: PLACES,
    shows: Shows::Nothing,
    steps: &[
        read(
            "Commit, and change the link",
            &[
                "`sn2` is to go: `[base] <- [sn1] <- [sn2] <- [sn3]` is to become `[base] <- [sn1] <- [sn3]`. Its data must not be lost, since sn3 reads it.",
                "Method 1 moves it down: commit sn2 into sn1, then tell sn3 to stand on sn1. Both read the same by then, so it is enough to change the link. That is the *unsafe* rebase: `-u` compares nothing and copies nothing.",
                "$ qemu-img commit -b sn1.qcow2 sn2.qcow2",
                "$ qemu-img rebase -u -b sn1.qcow2 -F qcow2 sn3.qcow2",
                "$ rm sn2.qcow2",
                "Only do this if nothing else depends on sn1: it changes.",
            ],
        ),
        Step {
            title: "Remove sn2 with Method 1",
            text: &[
                "The page does the commit and the change of the link in one run, in the order that a crash cannot hurt.",
            ],
            task: Task::Do {
                act: Act::Remove {
                    layer: "sn2",
                    method: 1,
                },
                goal: figure("base <- sn1 <- sn3; sn2!"),
            },
        },
        invalid(),
        Step {
            title: "Delete sn2",
            text: &[],
            task: Task::Do {
                act: Act::Delete(&["sn2"]),
                goal: figure("base <- sn1 <- sn3"),
            },
        },
    ],
};

const METHOD_2: Lesson = Lesson {
    id: "remove-method-2",
    group: Group::Removal,
    topic: 15,
    title: "Deleting a middle snapshot, Method 2",
    recipe: SN,
    places: PLACES,
    shows: Shows::Nothing,
    steps: &[
        read(
            "A safe rebase",
            &[
                "Method 2 reaches the same chain from the other side: rebase `sn3` onto `sn1`. A *safe* rebase, the default, compares the old backing file with the new one. Clusters that differ are copied into sn3 first, then its link changes. What sn3 reads stays the same.",
                "! The source document says that the changes of sn2 are committed to sn1. A reader's note puts it right: they are merged into *sn3*. sn1 is not written to at all, so this is also safe when other overlays stand on it.",
                "$ qemu-img rebase -b sn1.qcow2 -F qcow2 sn3.qcow2",
                "$ rm sn2.qcow2",
            ],
        ),
        Step {
            title: "Rebase sn3 onto sn1",
            text: &["Watch the kernel in the table: sn1 keeps the old one, sn3 keeps the new one."],
            task: Task::Do {
                act: Act::Rebase {
                    overlay: "sn3",
                    base: "sn1",
                    link_only: false,
                },
                goal: super::super::goal::Goal {
                    figure: "base <- sn1 <- sn3; sn1 <- sn2",
                    reads: &[("sn1", 0, "kernel 5.10"), ("sn3", 0, "kernel 6.1")],
                },
            },
        },
        invalid(),
        Step {
            title: "Delete sn2",
            text: &["It is valid, and nobody needs it."],
            task: Task::Do {
                act: Act::Delete(&["sn2"]),
                goal: figure("base <- sn1 <- sn3"),
            },
        },
        Step {
            title: "Where did the data go?",
            text: &[],
            task: Task::Question {
                ask: "After Method 2, the kernel that sn2 had is now in ...",
                answers: &[
                    ("sn1", false, "That is Method 1. Here sn1 was only read."),
                    (
                        "sn3",
                        true,
                        "It differs between sn2 and sn1, so it was copied up before the link changed.",
                    ),
                ],
            },
        },
    ],
};
