//! What goes wrong, tried out where it does no harm.

use super::super::goal::Goal;
use super::super::lesson::{Act, Group, Lesson, Shows, Step, Task};
use super::inside::LONG;
use super::{invalid, read};

pub const LESSONS: &[Lesson] = &[SHARED, LOOP, MISSING, KILLED];

const SHARED: Lesson = Lesson {
    id: "shared-base",
    group: Group::Broken,
    topic: 0,
    title: "The committed shared base",
    recipe: "Template: 0+3M=11 8M\"hostname: template\" 9M\"licence: none\"
        Web < Template: 8M\"hostname: web\"
        Mail < Template: 8M\"hostname: mail\"
        Build < Template: 8M\"hostname: build\" 9M\"licence: build only\"",
    places: &[
        ("name (8 MiB)", 8 << 20, 24),
        ("licence (9 MiB)", 9 << 20, 24),
    ],
    shows: Shows::Nothing,
    steps: &[
        read(
            "Three machines, one template",
            &[
                "Somebody wants to save space and commits the layer of `Build` into its backing file. On a command line that takes a second and ends with \"Image committed.\"",
                "$ qemu-img commit Build.qcow2",
            ],
        ),
        Step {
            title: "Break it",
            text: &["Commit `Build` into `Template`. You will have to insist."],
            task: Task::Do {
                act: Act::Commit {
                    top: "Build",
                    base: "Template",
                    force: true,
                },
                goal: Goal {
                    figure: "Template <- Build; Web!; Mail!",
                    reads: &[("Web", 1, "licence: build only")],
                },
            },
        },
        invalid(),
        read(
            "What happened",
            &[
                "`Web` and `Mail` read the licence of Build now. Only whole clusters that an overlay holds itself are safe from what is below; everything else shines through. A real file system on such a disk is torn: its own tables say one thing, the data below another.",
                "There is no way back. The template as it was exists nowhere any more.",
                "What would have been right: pull into `Build` and leave the template alone, or pull into `Web` and `Mail` first, so that they stand alone.",
            ],
        ),
    ],
};

const LOOP: Lesson = Lesson {
    id: "loop",
    group: Group::Broken,
    topic: 0,
    title: "The loop",
    recipe: "Base: 0+1M=11 8M\"the base\"
        Snap-1 < Base: 9M\"one\"
        Snap-2 < Snap-1: 10M\"two\"
        link Snap-1 Snap-2",
    places: &[
        ("base (8 MiB)", 8 << 20, 16),
        ("two (10 MiB)", 10 << 20, 16),
    ],
    shows: Shows::Nothing,
    steps: &[
        read(
            "A chain that bites its tail",
            &[
                "Somebody ran an unsafe rebase with the two names exchanged:",
                "$ qemu-img rebase -u -b Snap-2.qcow2 -F qcow2 Snap-1.qcow2",
                "Now Snap-1 stands on Snap-2, which stands on Snap-1. Neither can be read: what they do not hold is looked for for ever. `qemu-img map` and `qemu-img check` hang on such a chain.",
                "No data is lost. Only one link is wrong, and a link can be changed.",
            ],
        ),
        Step {
            title: "Mend it",
            text: &[
                "Rebase `Snap-1` onto `Base`, and tick *Only change the link*: a safe rebase would have to read the chain first, which is just what cannot be done.",
            ],
            task: Task::Do {
                act: Act::Rebase {
                    overlay: "Snap-1",
                    base: "Base",
                    link_only: true,
                },
                goal: Goal {
                    figure: "Base <- Snap-1 <- Snap-2",
                    reads: &[("Snap-2", 0, "the base"), ("Snap-2", 1, "two")],
                },
            },
        },
        Step {
            title: "How could you know?",
            text: &[],
            task: Task::Question {
                ask: "How could you tell that Base, and not some other file, was below Snap-1?",
                answers: &[
                    (
                        "Snap-1 remembers its earlier backing files",
                        false,
                        "A qcow2 file has one link, and it was written over.",
                    ),
                    (
                        "From your own notes: the file does not say",
                        true,
                        "qcow2 keeps no identity of the parent. A wrong guess gives a disk that opens, and reads nonsense.",
                    ),
                ],
            },
        },
    ],
};

const MISSING: Lesson = Lesson {
    id: "missing-backing-file",
    group: Group::Broken,
    topic: 0,
    title: "The missing backing file",
    recipe: "RootBase: 0+1M=11 8M\"the base\"
        RootBase-moved: 0+1M=11 8M\"the base\"
        Snap-1 < RootBase: 9M\"one\"
        Snap-2 < Snap-1: 10M\"two\"
        forget RootBase",
    places: &[
        ("base (8 MiB)", 8 << 20, 16),
        ("two (10 MiB)", 10 << 20, 16),
    ],
    shows: Shows::Nothing,
    steps: &[
        read(
            "A name that leads nowhere",
            &[
                "The link is nothing but a name. Here RootBase was renamed to `RootBase-moved`, and Snap-1 still asks for `RootBase.qcow2`. Snap-1 and all above it cannot be opened.",
                "Renaming it back would do. So does changing the name in Snap-1: the content is the same, so only the link has to change.",
                "$ qemu-img rebase -u -b RootBase-moved.qcow2 -F qcow2 Snap-1.qcow2",
            ],
        ),
        Step {
            title: "Mend it",
            text: &["Rebase `Snap-1` onto `RootBase-moved`, only the link."],
            task: Task::Do {
                act: Act::Rebase {
                    overlay: "Snap-1",
                    base: "RootBase-moved",
                    link_only: true,
                },
                goal: Goal {
                    figure: "RootBase-moved <- Snap-1 <- Snap-2",
                    reads: &[("Snap-2", 0, "the base"), ("Snap-2", 1, "two")],
                },
            },
        },
        Step {
            title: "Safe or unsafe?",
            text: &[],
            task: Task::Question {
                ask: "Why not a safe rebase?",
                answers: &[
                    (
                        "It would compare with the old backing file, which cannot be opened",
                        true,
                        "Safe means: keep what the overlay reads. Without the old backing file nobody knows what that is.",
                    ),
                    (
                        "It would copy all of RootBase into Snap-1",
                        false,
                        "It copies only what differs between the two, which here is nothing.",
                    ),
                ],
            },
        },
    ],
};

const KILLED: Lesson = Lesson {
    id: "killed-half-way",
    group: Group::Broken,
    topic: 0,
    title: "The merge killed half-way",
    recipe: LONG,
    places: &[("end of it (1000 MiB)", 1000 << 20, 24)],
    shows: Shows::Nothing,
    steps: &[
        read(
            "Pull the plug",
            &[
                "Machines crash, tabs get closed, somebody types `kill -9`. A merge has to survive that: whatever was done of it, every disk that is to stay must still read the same, and running the merge again must complete it.",
                "backchain writes in an order that makes it so: first data that nobody points at yet, then the tables that point at it, then the link of the layer above; and nothing is dropped before that.",
            ],
        ),
        Step {
            title: "Start the merge, and kill it",
            text: &[
                "Commit `Snap-1` into `RootBase`. While it runs, press *Kill the engine*: the worker that writes is ended on the spot, in the middle of whatever it does. Then another one is started and looks at what it finds.",
            ],
            task: Task::Kill {
                act: Act::Commit {
                    top: "Snap-1",
                    base: "RootBase",
                    force: false,
                },
            },
        },
        Step {
            title: "Look at the damage",
            text: &[],
            task: Task::Question {
                ask: "What did the new worker find?",
                answers: &[
                    (
                        "The chain as it was, and every file passes its check",
                        true,
                        "The browser had put nothing in place yet. Killed on a command line, RootBase could have clusters that nobody uses (leaks), and Active would still read the same.",
                    ),
                    (
                        "A RootBase that is half written",
                        false,
                        "The table below the figure says: no errors in any file.",
                    ),
                ],
            },
        },
        Step {
            title: "Run it again",
            text: &["Recovery is doing it again. The same commit, to its end."],
            task: Task::Do {
                act: Act::Commit {
                    top: "Snap-1",
                    base: "RootBase",
                    force: false,
                },
                goal: Goal {
                    figure: "RootBase <- Active; Snap-1!",
                    reads: &[("Active", 0, "the end")],
                },
            },
        },
    ],
};
