//! Block commit: merging overlays down into a backing file.

use super::super::goal::{Goal, figure};
use super::super::lesson::{Act, Group, Lesson, Shows, Step, Task};
use super::{PLACES, invalid, read};

pub const LESSONS: &[Lesson] = &[
    FIG_4,
    S1_S2,
    S1,
    S2_TO_S1,
    S3_TO_S2,
    FIG_3,
    ACTIVE,
    METHODS,
    INVALIDATES,
];

/// The source document's chain.
const FIVE: &str = "RootBase: 0+3M=11 8M\"kernel 5.10\" 9M\"day 0\"
    Snap-1 < RootBase: 4M+1M=21 9M\"day 1\"
    Snap-2 < Snap-1: 5M+1M=31 8M\"kernel 6.1\" 9M\"day 2\"
    Snap-3 < Snap-2: 6M+1M=41 9M\"day 3\" 10M\"log of Snap-3\"
    Snap-4 < Snap-3: 7M+1M=51 9M\"day 4\"";

const fn case(id: &'static str, title: &'static str, steps: &'static [Step]) -> Lesson {
    Lesson {
        id,
        group: Group::Commit,
        topic: 8,
        title,
        recipe: FIVE,
        places: PLACES,
        shows: Shows::Nothing,
        steps,
    }
}

const fn commit(top: &'static str, base: &'static str) -> Act {
    Act::Commit {
        top,
        base,
        force: false,
    }
}

const FIG_4: Lesson = case(
    "blockcommit-fig-4",
    "Snap-1, Snap-2 and Snap-3 into RootBase (Fig 4)",
    &[
        read(
            "Merge down",
            &[
                "A chain gets longer with every snapshot, and slower to read. *Block commit* shortens it: the data of overlays is merged *down* into a backing file.",
                "You name two ends. *top* is the uppermost layer to merge, *base* is the one that takes the data. All from top down to base is merged. Then the layer above top gets base as its backing file.",
                "Snap-4 is active and stays out of it. Its guest must not notice: what Snap-4 reads is the same before and after.",
            ],
        ),
        Step {
            title: "Commit Snap-3 down to RootBase",
            text: &[
                "$ virsh blockcommit VM vda --base RootBase.qcow2 --top Snap-3.qcow2 --wait --verbose",
            ],
            task: Task::Do {
                act: commit("Snap-3", "RootBase"),
                goal: figure("RootBase <- Snap-4; Snap-1!; Snap-2!; Snap-3!"),
            },
        },
        invalid(),
    ],
);

const S1_S2: Lesson = case(
    "blockcommit-s1-s2",
    "Snap-1 and Snap-2 into RootBase",
    &[
        Step {
            title: "Commit Snap-2 down to RootBase",
            text: &[
                "Now top is `Snap-2`. What is above it, Snap-3 and Snap-4, is not merged; Snap-3 gets RootBase as its backing file.",
            ],
            task: Task::Do {
                act: commit("Snap-2", "RootBase"),
                goal: figure("RootBase <- Snap-3 <- Snap-4; Snap-1!; Snap-2!"),
            },
        },
        invalid(),
    ],
);

const S1: Lesson = case(
    "blockcommit-s1",
    "Snap-1 into RootBase",
    &[
        Step {
            title: "Commit Snap-1 into RootBase",
            text: &["One layer into the one below it. Nothing lies in between."],
            task: Task::Do {
                act: commit("Snap-1", "RootBase"),
                goal: figure("RootBase <- Snap-2 <- Snap-3 <- Snap-4; Snap-1!"),
            },
        },
        invalid(),
    ],
);

const S2_TO_S1: Lesson = case(
    "blockcommit-s2-to-s1",
    "Snap-2 into Snap-1",
    &[
        Step {
            title: "Commit Snap-2 into Snap-1",
            text: &[
                "The base of a commit need not be the base of the chain. Here RootBase is not touched: whoever else stands on it does not notice.",
            ],
            task: Task::Do {
                act: commit("Snap-2", "Snap-1"),
                goal: figure("RootBase <- Snap-1 <- Snap-3 <- Snap-4; Snap-2!"),
            },
        },
        invalid(),
    ],
);

const S3_TO_S2: Lesson = case(
    "blockcommit-s3-to-s2",
    "Snap-3 into Snap-2",
    &[
        Step {
            title: "Commit Snap-3 into Snap-2",
            text: &["The same one layer higher: Snap-4 gets Snap-2 as its backing file."],
            task: Task::Do {
                act: commit("Snap-3", "Snap-2"),
                goal: figure("RootBase <- Snap-1 <- Snap-2 <- Snap-4; Snap-3!"),
            },
        },
        invalid(),
    ],
);

const FIG_3: Lesson = case(
    "blockcommit-fig-3",
    "Snap-2 and Snap-3 into Snap-1 (Fig 3)",
    &[
        Step {
            title: "Commit Snap-3 down to Snap-1",
            text: &[
                "Two layers out of the middle: top is `Snap-3`, base is `Snap-1`. Of two versions of a cluster the upper one is taken: Snap-1 gets the diary of day 3.",
                "$ virsh blockcommit VM vda --base Snap-1.qcow2 --top Snap-3.qcow2 --wait --verbose",
            ],
            task: Task::Do {
                act: commit("Snap-3", "Snap-1"),
                goal: figure("RootBase <- Snap-1 <- Snap-4; Snap-2!; Snap-3!"),
            },
        },
        invalid(),
    ],
);

const ACTIVE: Lesson = Lesson {
    id: "commit-active",
    group: Group::Commit,
    topic: 9,
    title: "Committing the active layer",
    recipe: FIVE,
    places: PLACES,
    shows: Shows::Nothing,
    steps: &[
        read(
            "The unfinished case of 2012",
            &[
                "When the source document was written, the active layer could not be committed while its VM ran: the guest keeps writing to the very layer that is to vanish.",
                "Today it works in two phases. Data is copied, and what the guest writes meanwhile is copied again, until both are level; then the VM is switched over to base (`--pivot`).",
                "$ virsh blockcommit VM vda --base Snap-3.qcow2 --active --pivot",
                "With the VM shut down there is nothing to switch: the layer is merged, and the VM is started on base. Nothing is above top, so no link has to change.",
            ],
        ),
        Step {
            title: "Commit Snap-4 into Snap-3",
            text: &[
                "Afterwards Snap-3 reads what Snap-4 reads: see the diary. Snap-4 is still there and still valid, as long as nobody writes to Snap-3.",
            ],
            task: Task::Do {
                act: commit("Snap-4", "Snap-3"),
                goal: Goal {
                    figure: "RootBase <- Snap-1 <- Snap-2 <- Snap-3 <- Snap-4",
                    reads: &[("Snap-3", 1, "day 4"), ("Snap-4", 1, "day 4")],
                },
            },
        },
        Step {
            title: "Start the VM again",
            text: &[],
            task: Task::Question {
                ask: "Which file does the VM have to be started on now?",
                answers: &[
                    (
                        "Snap-4",
                        false,
                        "It still reads the same, but its data is in Snap-3 now. The first write to either would part them.",
                    ),
                    (
                        "Snap-3",
                        true,
                        "It has taken over what Snap-4 held and is the active layer from now on.",
                    ),
                    (
                        "RootBase",
                        false,
                        "It was not touched: Snap-1, Snap-2 and Snap-3 still stand on it.",
                    ),
                ],
            },
        },
    ],
};

const SN: &str = "base: 0+3M=11 8M\"kernel 5.10\" 9M\"day 0\"
    sn1 < base: 4M+1M=21 9M\"day 1\"
    sn2 < sn1: 5M+4M=31 9M\"day 2\"
    sn3 < sn2: 10M+4M=41 9M\"day 3\"
    active < sn3: 7M+64K=51 9M\"day 4\"";

const METHODS: Lesson = Lesson {
    id: "one-shot-or-stepwise",
    group: Group::Commit,
    topic: 10,
    title: "In one go, or step by step",
    recipe: SN,
    places: &[("diary (9 MiB)", 9 << 20, 24)],
    shows: Shows::Moved,
    steps: &[
        Step {
            title: "Method a: in one go",
            text: &[
                "Merge `sn3` and `sn2` into `sn1` with one commit: top is `sn3`, base is `sn1`. Each cluster is copied once.",
            ],
            task: Task::Do {
                act: commit("sn3", "sn1"),
                goal: figure("base <- sn1 <- active; sn2!; sn3!"),
            },
        },
        Step {
            title: "The same chain again",
            text: &["For the other method, start over."],
            task: Task::Remake,
        },
        Step {
            title: "Method b: first sn3 into sn2",
            text: &[
                "Now layer by layer. After this first step `sn2` is still a good layer, and its guest could go on from there.",
            ],
            task: Task::Do {
                act: commit("sn3", "sn2"),
                goal: figure("base <- sn1 <- sn2 <- active; sn3!"),
            },
        },
        Step {
            title: "Method b: then sn2 into sn1",
            text: &["What came from sn3 is copied a second time."],
            task: Task::Do {
                act: commit("sn2", "sn1"),
                goal: figure("base <- sn1 <- active; sn2!; sn3!"),
            },
        },
        Step {
            title: "Which one?",
            text: &[],
            task: Task::Question {
                ask: "Both end in the same chain. Why would anybody use method b?",
                answers: &[
                    (
                        "It moves fewer bytes",
                        false,
                        "The figures say otherwise: the data of sn3 is moved twice.",
                    ),
                    (
                        "sn2 stays usable on the way",
                        true,
                        "Between the steps the chain is whole, with sn2 in it. The price is time.",
                    ),
                    (
                        "It needs no free space",
                        false,
                        "Both write into base files that have to grow.",
                    ),
                ],
            },
        },
    ],
};

const INVALIDATES: Lesson = Lesson {
    id: "what-a-commit-invalidates",
    group: Group::Commit,
    topic: 11,
    title: "What a commit invalidates",
    recipe: "RootBase: 0+3M=11 8M\"kernel 5.10\" 9M\"day 0\"
        Snap-1 < RootBase: 4M+1M=21 9M\"day 1\"
        Snap-2 < Snap-1: 5M+1M=31 8M\"kernel 6.1\" 9M\"day 2\"
        Snap-3 < Snap-2: 6M+1M=41 9M\"day 3\" 10M\"log of Snap-3\"
        Snap-4 < Snap-3: 7M+1M=51 9M\"day 4\"
        Other < RootBase: 9M\"another machine\"",
    places: PLACES,
    shows: Shows::Nothing,
    steps: &[
        read(
            "A changed base",
            &[
                "A layer is only right together with what is below it. Merge Snap-1 to Snap-3 into RootBase, and RootBase is another disk than before. Whatever still reads through it sees that: the layers in between, and *every other branch*.",
                "! The source document lists \"Snap-1, Snap-1, Snap-3\" as invalid after this commit. A reader's note puts it right: it is Snap-1 *and Snap-2* and Snap-3. And the list does not end there, if RootBase has other overlays.",
                "`qemu-img` says nothing of all that: it sees one chain, commits, and reports success. This page looks at all the files it was given and refuses, unless you insist.",
            ],
        ),
        Step {
            title: "Insist",
            text: &[
                "Choose the commit of `Snap-3` into `RootBase`. The page refuses, and names `Other`. Note what the kernel of `Other` is now; then tick *Do it although other overlays break*, and run.",
            ],
            task: Task::Do {
                act: Act::Commit {
                    top: "Snap-3",
                    base: "RootBase",
                    force: true,
                },
                goal: figure("RootBase <- Snap-4; Snap-1!; Snap-2!; Snap-3!; Other!"),
            },
        },
        invalid(),
        read(
            "Nothing tells",
            &[
                "Look at the table: the machine on `Other` has another kernel now, and a log that it never wrote. Its file was not touched; no tool finds anything wrong with it.",
                "Before a commit, ask who else stands on base. Without knowing that, pull instead: it changes nobody but the overlay that is pulled into.",
            ],
        ),
    ],
};
