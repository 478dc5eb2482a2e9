//! Backing files and overlays.

use super::super::goal::{Goal, figure};
use super::super::lesson::{Act, Group, Lesson, Shows, Step, Task};
use super::read;

pub const LESSONS: &[Lesson] = &[LINEAR, TREE, CLONES];

const LINEAR: Lesson = Lesson {
    id: "backing-files",
    group: Group::Chains,
    topic: 1,
    title: "Backing files and overlays (Fig 1)",
    recipe: "RootBase: 0+3M=11 8M\"kernel 5.10\" 9M\"day 0\"
        Overlay-1 < RootBase: 4M+1M=21 9M\"day 1\"
        Overlay-1A < Overlay-1: 5M+1M=31 9M\"day 2\"",
    places: &[
        ("kernel (8 MiB)", 8 << 20, 24),
        ("diary (9 MiB)", 9 << 20, 24),
    ],
    shows: Shows::Nothing,
    steps: &[
        read(
            "A disk in several files",
            &[
                "A disk image can stand on another one. `[A] <- [B]` says: A is the *backing file* of B, and B is an *overlay* on A. The overlay holds only what was written since it was made; what it does not hold is read from below.",
                "The uppermost layer is the *active* one: the only one the VM writes to. The lowest is the *base*.",
                "The table shows what a guest would read, at two places of its disk, if it ran on each of the layers. Each has its own page of the diary; nobody but RootBase has a kernel, so all read that one.",
            ],
        ),
        Step {
            title: "Add an overlay",
            text: &[
                "Make `Overlay-1B` on `Overlay-1A`. A new overlay holds nothing at all, so its guest reads the same as the one below.",
                "$ qemu-img create -f qcow2 -b Overlay-1A.qcow2 -F qcow2 Overlay-1B.qcow2",
            ],
            task: Task::Do {
                act: Act::Overlay {
                    on: "Overlay-1A",
                    name: "Overlay-1B",
                },
                goal: figure("RootBase <- Overlay-1 <- Overlay-1A <- Overlay-1B"),
            },
        },
        Step {
            title: "Let the guest write",
            text: &[
                "The VM now runs on `Overlay-1B` and writes a new page of its diary. Only the active file changes.",
            ],
            task: Task::Do {
                act: Act::Write {
                    layer: "Overlay-1B",
                    writes: "9M\"day 3\"",
                },
                goal: Goal {
                    figure: "RootBase <- Overlay-1 <- Overlay-1A <- Overlay-1B",
                    reads: &[("Overlay-1B", 1, "day 3"), ("Overlay-1A", 1, "day 2")],
                },
            },
        },
        Step {
            title: "Who is read?",
            text: &[],
            task: Task::Question {
                ask: "The guest on Overlay-1B reads the kernel. From which file do the bytes come?",
                answers: &[
                    (
                        "Overlay-1B",
                        false,
                        "It holds a page of the diary and nothing else.",
                    ),
                    (
                        "RootBase",
                        true,
                        "No overlay has these clusters, so reading goes down the chain until a layer has them.",
                    ),
                    (
                        "All four, merged",
                        false,
                        "The uppermost layer that holds a cluster decides alone; nothing is mixed within a cluster.",
                    ),
                ],
            },
        },
    ],
};

const TREE: Lesson = Lesson {
    id: "one-base-many-branches",
    group: Group::Chains,
    topic: 2,
    title: "One base, many branches (Fig 2)",
    recipe: "RootBase: 0+3M=11 8M\"kernel 5.10\" 9M\"installed\"
        Overlay-1 < RootBase: 9M\"web server\"
        Overlay-1A < Overlay-1: 4M+1M=21
        Overlay-1B < Overlay-1A: 5M+1M=22
        Overlay-1C < Overlay-1B: 9M\"web server, patched\"
        Overlay-2 < RootBase: 9M\"database\"
        Overlay-2A < Overlay-2: 6M+1M=31
        Overlay-3 < RootBase: 9M\"mail\"",
    places: &[
        ("kernel (8 MiB)", 8 << 20, 24),
        ("role (9 MiB)", 9 << 20, 24),
    ],
    shows: Shows::Nothing,
    steps: &[
        read(
            "A tree",
            &[
                "Any number of overlays can stand on one file. Here three machines were made from one RootBase; each goes its own way and has an active layer of its own.",
                "The files only name what is *below* them. RootBase does not know who stands on it, and no tool can tell from RootBase alone.",
            ],
        ),
        Step {
            title: "Complete the figure",
            text: &["The third machine lacks its active layer. Make `Overlay-3A` on `Overlay-3`."],
            task: Task::Do {
                act: Act::Overlay {
                    on: "Overlay-3",
                    name: "Overlay-3A",
                },
                goal: figure(
                    "RootBase <- Overlay-1 <- Overlay-1A <- Overlay-1B <- Overlay-1C; RootBase <- Overlay-2 <- Overlay-2A; RootBase <- Overlay-3 <- Overlay-3A",
                ),
            },
        },
        Step {
            title: "What must not change",
            text: &[],
            task: Task::Question {
                ask: "Which files may still be written to without harm to another one?",
                answers: &[
                    (
                        "RootBase",
                        false,
                        "All branches read through it: a change shows in every one of them.",
                    ),
                    (
                        "Overlay-1, Overlay-2 and Overlay-3",
                        false,
                        "Each has an overlay that reads through it.",
                    ),
                    (
                        "Overlay-1C, Overlay-2A and Overlay-3A",
                        true,
                        "Nothing stands on an active layer. Once something depends on a file, that file must stay as it is.",
                    ),
                ],
            },
        },
    ],
};

const CLONES: Lesson = Lesson {
    id: "thin-clones",
    group: Group::Chains,
    topic: 3,
    title: "Thin clones, and what info says",
    recipe: "Template 64M: 0+12M=11 16M\"hostname: template\"
        Clone-1 < Template: 16M\"hostname: clone-1\"",
    places: &[("hostname (16 MiB)", 16 << 20, 24)],
    shows: Shows::Details,
    steps: &[
        read(
            "Clones that cost nothing",
            &[
                "A thin clone is an overlay on a template. It is there at once and takes next to no space, since it holds only what is different.",
                "$ qemu-img create -f qcow2 -b Template.qcow2 -F qcow2 Clone-2.qcow2",
                "`-F` says what the backing file *is*. Without it the tool would have to guess from bytes that a guest may have written.",
            ],
        ),
        Step {
            title: "Make a clone",
            text: &["Make `Clone-2` on `Template`."],
            task: Task::Do {
                act: Act::Overlay {
                    on: "Template",
                    name: "Clone-2",
                },
                goal: figure("Template <- Clone-1; Template <- Clone-2"),
            },
        },
        read(
            "Read its info",
            &[
                "Choose a layer in the figure. What the page shows is what `info` prints: the *virtual size* is the disk the guest sees, the *disk size* is what the file takes (the page says *file size*), and the *backing file* is the link.",
                "$ qemu-img info --backing-chain Clone-2.qcow2",
            ],
        ),
        Step {
            title: "Sizes",
            text: &[],
            task: Task::Question {
                ask: "The template's disk has 64 MiB, of which 12 MiB are used. How large are they for Clone-2?",
                answers: &[
                    (
                        "Virtual size 64 MiB, and its file takes well under 1 MiB",
                        true,
                        "The guest sees the whole disk; the file holds a header and tables, and no data yet.",
                    ),
                    (
                        "Virtual size 64 MiB, and its file takes 12 MiB",
                        false,
                        "Nothing was copied: the 12 MiB are still in the template alone.",
                    ),
                    (
                        "Virtual size 0, as nothing was written yet",
                        false,
                        "The virtual size is the size of the disk, written to or not.",
                    ),
                ],
            },
        },
    ],
};
