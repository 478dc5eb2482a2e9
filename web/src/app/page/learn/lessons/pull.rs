//! Block pull: merging backing data up into an overlay.

use super::super::goal::figure;
use super::super::lesson::{Act, Group, Lesson, Shows, Step, Task};
use super::{PLACES, invalid, read};

pub const LESSONS: &[Lesson] = &[PARTIAL, FULL, SIZES];

const FIVE: &str = "RootBase: 0+3M=11 8M\"kernel 5.10\" 9M\"day 0\"
    Snap-1 < RootBase: 4M+1M=21 9M\"day 1\"
    Snap-2 < Snap-1: 5M+1M=31 8M\"kernel 6.1\" 9M\"day 2\"
    Snap-3 < Snap-2: 6M+1M=41 9M\"day 3\" 10M\"log of Snap-3\"
    Active < Snap-3: 7M+1M=51 9M\"day 4\"";

const PARTIAL: Lesson = Lesson {
    id: "blockpull-fig-5",
    group: Group::Pull,
    topic: 12,
    title: "Pull Snap-1 to Snap-3 into Active (Fig 5)",
    recipe: FIVE,
    places: PLACES,
    shows: Shows::Nothing,
    steps: &[
        read(
            "Merge up",
            &[
                "*Block pull* goes the other way. An overlay takes over from below what it does not hold itself, until it can stand on a lower layer. Only the overlay is written to.",
                "! A reader's note corrects the source document here: what it describes is *blockpull* (`block-stream` inside QEMU), not \"block-copy\". Block copy is another job: it mirrors a disk to another file and can switch the VM over to that.",
                "$ virsh blockpull VM vda --base RootBase.qcow2 --wait --verbose",
            ],
        ),
        Step {
            title: "Pull into Active, down to RootBase",
            text: &[
                "Let `Active` take over what Snap-1, Snap-2 and Snap-3 have. RootBase becomes its backing file.",
            ],
            task: Task::Do {
                act: Act::Pull {
                    top: "Active",
                    base: "RootBase",
                },
                goal: figure("RootBase <- Snap-1 <- Snap-2 <- Snap-3; RootBase <- Active"),
            },
        },
        invalid(),
        Step {
            title: "Tidy up",
            text: &[
                "The three are valid, and the VM does not need them any more. Unless you want to go back to them, delete them.",
            ],
            task: Task::Do {
                act: Act::Delete(&["Snap-1", "Snap-2", "Snap-3"]),
                goal: figure("RootBase <- Active"),
            },
        },
    ],
};

const FULL: Lesson = Lesson {
    id: "blockpull-fig-6",
    group: Group::Pull,
    topic: 12,
    title: "Pull everything into Active (Fig 6)",
    recipe: FIVE,
    places: PLACES,
    shows: Shows::Nothing,
    steps: &[
        Step {
            title: "Pull without a base",
            text: &[
                "Without a base, all of the chain is pulled: `Active` stands alone afterwards, and can be moved to another place by itself.",
                "$ virsh blockpull VM vda --wait --verbose",
            ],
            task: Task::Do {
                act: Act::Pull {
                    top: "Active",
                    base: "",
                },
                goal: figure("Active; RootBase <- Snap-1 <- Snap-2 <- Snap-3"),
            },
        },
        invalid(),
        Step {
            title: "Commit or pull?",
            text: &[],
            task: Task::Question {
                ask: "Other machines stand on RootBase. You want Active to stop depending on Snap-1 to Snap-3. Which is safe for the others?",
                answers: &[
                    (
                        "Commit Snap-3 into RootBase",
                        false,
                        "RootBase would change under all of them.",
                    ),
                    (
                        "Pull into Active with RootBase as base",
                        true,
                        "Only Active is written to.",
                    ),
                ],
            },
        },
    ],
};

const SIZES: Lesson = Lesson {
    id: "sizes-of-a-pull",
    group: Group::Pull,
    topic: 13,
    title: "Sizes before and after",
    recipe: "RootBase: 0+24M=11 40M\"kernel 5.10\"
        Snap-1 < RootBase: 26M+6M=21
        Active < Snap-1: 34M+1M=31",
    places: &[("kernel (40 MiB)", 40 << 20, 24)],
    shows: Shows::Sizes,
    steps: &[
        read(
            "Who pays?",
            &[
                "Merging moves data from file to file, so sizes change. In the source document's example the file that is pulled into grows from 2.9 MiB to 1011 MiB. Here it is smaller, and just as plain: look at the bars.",
            ],
        ),
        Step {
            title: "Pull everything into Active",
            text: &["The page shows beforehand what will be copied, and how large the file gets."],
            task: Task::Do {
                act: Act::Pull {
                    top: "Active",
                    base: "",
                },
                goal: figure("Active; RootBase <- Snap-1"),
            },
        },
        Step {
            title: "Read the bars",
            text: &[],
            task: Task::Question {
                ask: "What became of the sizes?",
                answers: &[
                    (
                        "Active grew by what it took over; the others are as large as before",
                        true,
                        "Nothing is taken away from the files below. Until you delete them, the data is there twice.",
                    ),
                    (
                        "Active grew, and RootBase shrank by the same",
                        false,
                        "A pull only writes to the overlay.",
                    ),
                    (
                        "All files together take the same space as before",
                        false,
                        "Not until the lower ones are deleted.",
                    ),
                ],
            },
        },
    ],
};
