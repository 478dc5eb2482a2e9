//! Carrying out a plan step by step, with the plan's invariants checked on the way.

use super::{Effect, SimFile};
use crate::case::Files;
use backchain::plan::{MetadataKind, Origin, PlanInfo, Recoder};
use backchain::source::read_padded;
use backchain::{CodecState, NodeId, ReadAt, Step, inflate};
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::Head;
use std::collections::{BTreeMap, BTreeSet};

/// What a plan must not do, or could not.
#[derive(Debug)]
pub struct Violation(pub String);

/// One executed step: on which file, and what it came to.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Name of the file.
    pub file: String,
    /// What happened.
    pub effect: Effect,
}

/// A plan that was carried out: the files afterwards, and the log for crashing.
#[derive(Debug, Clone)]
pub struct Run {
    /// The files before.
    pub before: Files,
    /// The files afterwards.
    pub after: Files,
    /// The steps in order.
    pub log: Vec<Entry>,
}

/// Carries out `steps` on `files`.
///
/// # Errors
/// Where a step breaks an invariant of plans, or fails.
pub fn run(
    files: &Files,
    info: &PlanInfo,
    steps: impl IntoIterator<Item = backchain::Result<Step>>,
) -> Result<Run, Violation> {
    let mut runner = Runner {
        info,
        run: Run {
            before: files.clone(),
            after: files.clone(),
            log: Vec::new(),
        },
        written: BTreeMap::new(),
        interval: Interval::default(),
        sealed: BTreeSet::new(),
        codec: CodecState::default(),
    };
    for (number, step) in steps.into_iter().enumerate() {
        let step = step.map_err(|e| Violation(format!("step {number}: {e}")))?;
        runner
            .step(&step)
            .map_err(|Violation(why)| Violation(format!("step {number}: {why}: {step:?}")))?;
    }
    runner.end()?;
    Ok(runner.run)
}

struct Runner<'a> {
    info: &'a PlanInfo,
    run: Run,
    /// Every range the plan has written so far.
    written: BTreeMap<NodeId, Ranges>,
    interval: Interval,
    sealed: BTreeSet<NodeId>,
    codec: CodecState,
}

/// What happened since the last sync.
#[derive(Default)]
struct Interval {
    reads: BTreeMap<NodeId, Ranges>,
    writes: BTreeMap<NodeId, Ranges>,
}

/// Byte ranges (start, end) of a file.
#[derive(Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn overlap(&self, start: u64, end: u64) -> bool {
        // Ranges may overlap each other (in `written`), so all that start before are candidates.
        self.0.range(..end).any(|(_, &e)| e > start)
    }

    fn add(&mut self, start: u64, end: u64) {
        let known = self.0.entry(start).or_insert(end);
        *known = end.max(*known);
    }
}

fn broken<T>(why: impl Into<String>) -> Result<T, Violation> {
    Err(Violation(why.into()))
}

impl Runner<'_> {
    fn name(&self, node: NodeId) -> Result<String, Violation> {
        match self.info.files.iter().find(|f| f.node == node) {
            Some(file) => Ok(file.name.clone()),
            None => broken(format!("file {node} was not announced")),
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), Violation> {
        let node = step.target();
        let name = self.name(node)?;
        if self.sealed.contains(&node) {
            return broken("touches a sealed file");
        }
        let announced = self.info.files.iter().find(|f| f.node == node);
        if announced.is_none_or(|f| !f.written) {
            return broken("writes to a file that was announced as only read");
        }
        let effect = match step {
            Step::Create { .. } => {
                if self.run.after.contains_key(&name) {
                    return broken("creates a file that exists");
                }
                let file = SimFile::new(Vec::new(), false);
                self.run.after.insert(name.clone(), file);
                Effect::Create
            }
            Step::Copy {
                from,
                src,
                dst,
                len,
                sparse,
                ..
            } => {
                let mut bytes = vec![0; to_usize(*len)];
                self.read(*from, src.0, &mut bytes)?;
                if *sparse {
                    self.reads_zero(&name, dst.0, *len)?;
                }
                Effect::Write(dst.0, bytes)
            }
            Step::Inflate {
                from,
                src,
                len,
                codec,
                cluster,
                skip,
                take,
                dst,
                ..
            } => {
                let mut packed = vec![0; to_usize(*len)];
                self.read(*from, src.0, &mut packed)?;
                let mut unpacked = vec![0; to_usize(*cluster)];
                inflate(&mut self.codec, *codec, &packed, &mut unpacked)
                    .map_err(|e| Violation(e.to_string()))?;
                let Some(part) = unpacked.get(to_usize(*skip)..to_usize(skip + take)) else {
                    return broken("takes more than the cluster holds");
                };
                Effect::Write(dst.0, part.to_vec())
            }
            Step::Recode {
                origin,
                to,
                dst,
                encrypt,
                len,
                sparse,
            } => {
                let source = match origin {
                    Origin::Stored { from, src, .. } => self.read_file(*from, src.0, *len)?,
                    Origin::Packed {
                        from, src, packed, ..
                    } => self.read_file(*from, src.0, *packed)?,
                    _ => None,
                };
                let source = source.as_ref().map(|file| file as &dyn ReadAt);
                let mut bytes = vec![0; to_usize(*len)];
                let ciphers = &self.info.ciphers;
                Recoder::default()
                    .fill(ciphers, origin, source, *to, *encrypt, &mut bytes)
                    .map_err(|e| Violation(e.to_string()))?;
                if *sparse {
                    if encrypt.is_some() {
                        return broken("leaves zeros out where noise is read");
                    }
                    self.reads_zero(&name, dst.0, *len)?;
                }
                Effect::Write(dst.0, bytes)
            }
            Step::Zero { dst, len, .. } => Effect::Zero(dst.0, *len),
            Step::Allocate { dst, len, .. } => {
                self.reads_zero(&name, dst.0, *len)?;
                Effect::Zero(dst.0, *len)
            }
            Step::Discard { dst, len, .. } => Effect::Discard(dst.0, *len),
            Step::Write { dst, bytes, .. } => Effect::Write(dst.0, bytes.clone()),
            Step::SetLen { len, .. } => Effect::SetLen(*len),
            Step::Sync { .. } | Step::Seal { .. } => Effect::Barrier,
            other => return broken(format!("unknown step {other:?}")),
        };
        self.order(node, &effect)?;
        let Some(file) = self.run.after.get_mut(&name) else {
            return broken("the file is not there");
        };
        let head = |file: &SimFile| Head::from_bytes(file.bytes()).ok().map(|h| h.backing);
        let is_link = matches!(
            step,
            Step::Write {
                kind: MetadataKind::Header | MetadataKind::BackingName,
                ..
            }
        );
        let before = is_link.then(|| head(file)).flatten();
        effect.apply(file);
        if let (Some(before), Some(after)) = (before, is_link.then(|| head(file)).flatten())
            && before != after
        {
            self.linked(node)?;
        }
        if matches!(effect, Effect::Barrier) {
            self.interval = Interval::default();
        }
        if matches!(step, Step::Seal { .. }) {
            self.sealed.insert(node);
        }
        self.run.log.push(Entry { file: name, effect });
        Ok(())
    }

    /// Reads from the state before the plan.
    fn read(&mut self, from: NodeId, at: u64, buf: &mut [u8]) -> Result<(), Violation> {
        match self.read_file(from, at, to_u64(buf.len()))? {
            Some(file) => read_padded(&file, at, buf).map_err(|e| Violation(e.to_string())),
            None => broken("reads a file that the plan makes"),
        }
    }

    /// The file as it was before the plan, to read a range of it: invariant 2.
    fn read_file(&mut self, from: NodeId, at: u64, len: u64) -> Result<Option<SimFile>, Violation> {
        let name = self.name(from)?;
        let end = at + len;
        let overlaps = |ranges: &BTreeMap<NodeId, Ranges>| {
            ranges.get(&from).is_some_and(|r| r.overlap(at, end))
        };
        if overlaps(&self.written) {
            return broken("reads what the plan wrote");
        }
        self.interval.reads.entry(from).or_default().add(at, end);
        Ok(self.run.before.get(&name).cloned())
    }

    /// A sparse copy leaves blocks of zeros out: the place must be zero already.
    fn reads_zero(&self, name: &str, at: u64, len: u64) -> Result<(), Violation> {
        let Some(file) = self.run.after.get(name) else {
            return broken("the file is not there");
        };
        let mut there = vec![0; to_usize(len)];
        read_padded(file, at, &mut there).map_err(|e| Violation(e.to_string()))?;
        if there.iter().any(|b| *b != 0) {
            return broken("says that the place reads as zeros, but it does not");
        }
        Ok(())
    }

    /// Steps of one interval touch different bytes and read nothing that is written: invariant 1.
    fn order(&mut self, node: NodeId, effect: &Effect) -> Result<(), Violation> {
        let (start, end) = match effect {
            Effect::Create | Effect::Barrier => return Ok(()),
            Effect::Write(at, bytes) => (*at, at + to_u64(bytes.len())),
            Effect::Zero(at, len) | Effect::Discard(at, len) => (*at, at + len),
            // Whatever is behind the new end is taken away, should it come later.
            Effect::SetLen(len) => (*len, u64::MAX),
        };
        if start == end {
            return broken("is empty");
        }
        let overlaps = |ranges: &BTreeMap<NodeId, Ranges>| {
            ranges.get(&node).is_some_and(|r| r.overlap(start, end))
        };
        if overlaps(&self.interval.writes) {
            return broken("overlaps another step of its interval");
        }
        if overlaps(&self.interval.reads) {
            return broken("writes what a step of its interval reads");
        }
        for ranges in [&mut self.interval.writes, &mut self.written] {
            ranges.entry(node).or_default().add(start, end);
        }
        Ok(())
    }

    /// The backing link of `node` has just changed: invariant 4.
    fn linked(&self, node: NodeId) -> Result<(), Violation> {
        let Some((_, base)) = self.info.links.iter().find(|(overlay, _)| *overlay == node) else {
            return broken("changes a link that was not announced");
        };
        let written = |id: &NodeId| self.info.files.iter().any(|f| f.node == *id && f.written);
        match base {
            Some(base) if written(base) && !self.sealed.contains(base) => {
                broken("links to a backing file that is not sealed")
            }
            _ => Ok(()),
        }
    }

    fn end(&self) -> Result<(), Violation> {
        for file in self.info.files.iter().filter(|f| f.written) {
            let touched = self
                .written
                .get(&file.node)
                .is_some_and(|r| !r.0.is_empty());
            if touched && !self.sealed.contains(&file.node) {
                return broken(format!("{} is not sealed at the end", file.name));
            }
        }
        Ok(())
    }
}
