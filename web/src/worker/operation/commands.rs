//! The same operation on command lines, to be copied.

use super::wish::{compresses, highest};
use super::{earlier, place};
use crate::protocol::{Command, Field, Kind, LayerId, Operation};
use crate::worker::session::Session;
use backchain::plan::{PlanInfo, shell_word};
use std::fmt::Write;

/// With backchain, with qemu-img, and with virsh where there is such a command.
#[must_use]
pub fn commands(session: &Session, form: &Operation, info: &PlanInfo) -> Vec<Command> {
    let told = |tool: &str| -> Vec<String> {
        info.equivalent
            .iter()
            .filter(|line| line.starts_with(tool))
            .cloned()
            .collect()
    };
    let own = Own { session, form };
    let line = own.arguments();
    let qemu = match &line {
        Some(line) => vec![format!("qemu-img {line}")],
        None => told("qemu-img"),
    };
    let backchain = match own.special() {
        Some(line) => vec![format!("backchain {line}")],
        None => qemu
            .iter()
            .map(|line| line.replacen("qemu-img", "backchain", 1))
            .collect(),
    };
    let mut virsh = told("virsh");
    virsh.extend(own.virsh().map(|line| format!("virsh {line}")));
    [
        ("backchain", backchain),
        ("qemu-img", qemu),
        ("virsh", virsh),
    ]
    .into_iter()
    .filter(|(_, lines)| !lines.is_empty())
    .map(|(tool, lines)| Command {
        tool: tool.to_owned(),
        lines: lines.join("\n"),
    })
    .collect()
}

struct Own<'a> {
    session: &'a Session,
    form: &'a Operation,
}

impl Own<'_> {
    /// The path of a layer, quoted.
    fn path(&self, layer: Option<LayerId>) -> Option<String> {
        let id = self.session.node(layer?).ok()?;
        Some(shell_word(&self.session.tree.node(id).name).into_owned())
    }

    fn format(&self, layer: Option<LayerId>) -> Option<&'static str> {
        let id = self.session.node(layer?).ok()?;
        Some(self.session.tree.node(id).image().ok()?.format().name())
    }

    /// What backchain has and qemu-img has not.
    fn special(&self) -> Option<String> {
        let form = self.form;
        let top = self.path(form.top)?;
        let base = self.path(form.base);
        let id = self.session.node(form.top?).ok()?;
        let active = shell_word(&self.session.tree.node(highest(self.session, id)).name);
        let force = if form.force {
            "--force-dependents "
        } else {
            ""
        };
        match form.kind {
            Kind::Commit => Some(format!(
                "blockcommit {force}--base {} --top {top} {active}",
                base?
            )),
            Kind::Pull => Some(match base {
                Some(base) => format!("blockpull --base {base} {top}"),
                None => format!("blockpull {top}"),
            }),
            Kind::Remove => {
                let method = form.get(Field::Method);
                let method = if method.is_empty() {
                    String::new()
                } else {
                    format!("--method {method} ")
                };
                Some(format!("remove {force}{method}--active {active} {top}"))
            }
            _ => None,
        }
    }

    /// What both have and the engine's plan does not tell.
    fn arguments(&self) -> Option<String> {
        let form = self.form;
        match form.kind {
            Kind::Create => Some(format!(
                "create -f {}{} {} {}",
                form.get(Field::Format),
                self.options(),
                self.new_path()?,
                shell_word(form.get(Field::Size).trim())
            )),
            Kind::Overlay | Kind::GoBack if form.makes().is_some() => {
                let below = match form.kind {
                    Kind::Overlay => form.top,
                    _ => form.base,
                };
                Some(format!(
                    "create -f qcow2 -b {} -F {}{} {} {}",
                    self.below_name(below)?,
                    self.format(below)?,
                    self.options(),
                    self.new_path()?,
                    shell_word(form.get(Field::Size).trim())
                ))
                .map(|line| line.trim_end_matches(" ''").to_owned())
            }
            Kind::Snapshot => Some(format!(
                "snapshot -c {} {}",
                shell_word(form.get(Field::SnapshotName)),
                self.path(form.top)?
            )),
            Kind::Revert => Some(format!(
                "snapshot -a {} {}",
                shell_word(form.get(Field::Snapshot)),
                self.path(form.top)?
            )),
            Kind::DeleteSnapshot => Some(format!(
                "snapshot -d {} {}",
                shell_word(&self.snapshot_name()?),
                self.path(form.top)?
            )),
            Kind::Export => {
                let mut line = "convert".to_owned();
                if compresses(form) {
                    line.push_str(" -c");
                }
                let snapshot = form.get(Field::Snapshot);
                if !snapshot.is_empty() {
                    // A String takes everything.
                    let _ = write!(line, " -l snapshot.id={}", shell_word(snapshot));
                }
                if form.is(Field::Bitmaps) {
                    line.push_str(" --bitmaps --skip-broken-bitmaps");
                }
                let _ = write!(line, " -O {}{}", form.get(Field::Format), self.options());
                if let Some(below) = form.base {
                    let _ = write!(
                        line,
                        " -B {} -F {}",
                        self.below_name(Some(below))?,
                        self.format(Some(below))?
                    );
                }
                let _ = write!(line, " {} {}", self.path(form.top)?, self.new_path()?);
                Some(line)
            }
            _ => None,
        }
    }

    fn virsh(&self) -> Option<String> {
        let form = self.form;
        match form.kind {
            Kind::Overlay => Some(format!(
                "snapshot-create-as DOMAIN NAME --disk-only --diskspec DISK,file={}",
                self.new_path()?
            )),
            Kind::Snapshot => Some(format!(
                "snapshot-create-as DOMAIN {}",
                shell_word(form.get(Field::SnapshotName))
            )),
            Kind::Revert => Some(format!(
                "snapshot-revert DOMAIN {}",
                shell_word(&self.snapshot_name()?)
            )),
            Kind::DeleteSnapshot => Some(format!(
                "snapshot-delete DOMAIN {}",
                shell_word(&self.snapshot_name()?)
            )),
            Kind::Resize => {
                let id = self.session.node(form.top?).ok()?;
                let now = self.session.tree.node(id).virtual_size();
                let size = crate::size::parse_change(form.get(Field::Size), now).ok()?;
                Some(format!(
                    "blockresize DOMAIN {} {size}B",
                    self.path(form.top)?
                ))
            }
            _ => None,
        }
    }

    fn new_path(&self) -> Option<String> {
        place::path(self.session, self.form)
            .ok()
            .map(|path| shell_word(&path).into_owned())
    }

    /// A backing file as its overlay beside it names it.
    fn below_name(&self, layer: Option<LayerId>) -> Option<String> {
        let id = match self.form.kind {
            Kind::GoBack => earlier(self.session, self.form).ok()?,
            _ => self.session.node(layer?).ok()?,
        };
        let target = &self.session.tree.node(id).name;
        let new = place::path(self.session, self.form).ok()?;
        let name = backchain::chain::Locator::relative(target, &new);
        Some(shell_word(&name.unwrap_or_else(|| target.clone())).into_owned())
    }

    fn snapshot_name(&self) -> Option<String> {
        let id = self.session.node(self.form.top?).ok()?;
        let list = self.session.tree.node(id).snapshots().ok()?;
        let wanted = self.form.get(Field::Snapshot);
        Some(list.into_iter().find(|entry| entry.id == wanted)?.name)
    }

    /// ` -o ...` for what is not as usual.
    fn options(&self) -> String {
        let form = self.form;
        let mut options = Vec::new();
        let changed = |field: Field| form.get(field).trim() != field.usual();
        let preallocation = form.get(Field::Preallocation);
        if form.get(Field::Format) == "qcow2" {
            for (field, name) in [
                (Field::Cluster, "cluster_size"),
                (Field::Compat, "compat"),
                (Field::RefcountBits, "refcount_bits"),
                (Field::ExtendedL2, "extended_l2"),
                (Field::LazyRefcounts, "lazy_refcounts"),
            ] {
                if changed(field) {
                    options.push(format!("{name}={}", form.get(field).trim()));
                }
            }
            if form.get(Field::Compress) == "zstd" {
                options.push("compression_type=zstd".to_owned());
            }
        }
        if changed(Field::Preallocation) {
            options.push(format!("preallocation={preallocation}"));
        }
        if options.is_empty() {
            String::new()
        } else {
            format!(" -o {}", options.join(","))
        }
    }
}
