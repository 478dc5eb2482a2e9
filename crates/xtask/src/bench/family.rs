//! The chains to measure on, kept in `target/bench/` from one run to the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use super::image::{CLUSTER, Image, Kind, Random, TABLE};
use crate::cmd;

const GIB: u64 = 1 << 30;

/// Changes whenever the images do.
const VERSION: &str = "1";

/// A sort of chain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// 4 layers, 1.6 GiB in clusters all over a disk of 10 GiB.
    M,
    /// 32 layers, 500 MiB.
    Deep32,
    /// 100 layers, 650 MiB.
    Deep100,
    /// 3 layers of 1 TiB: 128 MiB of tables each, mostly zero clusters, and little data.
    D1,
}

impl Family {
    pub(super) const ALL: [Self; 4] = [Self::M, Self::Deep32, Self::Deep100, Self::D1];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::M => "M",
            Self::Deep32 => "deep32",
            Self::Deep100 => "deep100",
            Self::D1 => "D1",
        }
    }

    /// Size of the disk in bytes, layers, data clusters of the base, and of each layer above.
    fn shape(self, quick: bool) -> (u64, u64, u64, u64) {
        let (size, layers, base, each) = match self {
            Self::M => (10 * GIB, 4, 18_400, 2560),
            Self::Deep32 => (8 * GIB, 32, 4096, 128),
            Self::Deep100 => (8 * GIB, 100, 4096, 64),
            Self::D1 => (1024 * GIB, 3, 2048, 1024),
        };
        match (quick, self) {
            (false, _) => (size, layers, base, each),
            (true, Self::D1) => (size / 8, layers, base / 8, each / 8),
            (true, _) => (size / 8, layers, base / 8, each / 8),
        }
    }

    /// Clusters of one layer in the order in which they were written.
    fn clusters(self, size: u64, data: u64, random: &mut Random) -> Vec<(u64, Kind)> {
        let total = size / CLUSTER;
        let mut clusters = Vec::new();
        let mut taken = vec![false; usize::try_from(total).unwrap_or(0)];
        let mut add = |cluster: u64, kind| {
            let slot = usize::try_from(cluster).ok().and_then(|c| taken.get_mut(c));
            if let Some(slot) = slot
                && !*slot
            {
                *slot = true;
                clusters.push((cluster, kind));
            }
        };
        for _ in 0..data {
            // Runs of one to eight clusters, as file systems write.
            let length = 1 + random.below(8);
            let start = random.below(total);
            if self == Self::D1 {
                add(start, Kind::Data);
            } else {
                (start..start + length).for_each(|cluster| add(cluster, Kind::Data));
            }
        }
        if self == Self::D1 {
            for table in 0..total / TABLE {
                for _ in 0..8 {
                    let start = random.below(TABLE - 64);
                    let run = start..start + 1 + random.below(64);
                    run.for_each(|entry| add(table * TABLE + entry, Kind::Zero));
                }
            }
        } else {
            clusters.truncate(usize::try_from(data).unwrap_or(usize::MAX));
        }
        clusters
    }
}

impl FromStr for Family {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|family| family.name() == name);
        found.with_context(|| format!("no family is called {name}"))
    }
}

/// The files of a family.
pub(super) struct Fixture {
    pub(super) dir: PathBuf,
    /// File names, base first.
    pub(super) layers: Vec<String>,
}

/// A flat qcow2 image with what the top layer shows.
pub(super) const FLAT: &str = "flat.qcow2";

impl Fixture {
    fn of(family: Family, quick: bool) -> Self {
        let quick_name = if quick { "-quick" } else { "" };
        let name = format!("{}{quick_name}", family.name());
        let (_, layers, _, _) = family.shape(quick);
        Self {
            dir: cmd::root().join("target/bench").join(name),
            layers: (0..layers).map(|n| format!("layer{n}.qcow2")).collect(),
        }
    }

    /// The fixture, built first where it is not there yet.
    pub(super) fn ready(family: Family, quick: bool) -> Result<Self> {
        let fixture = Self::of(family, quick);
        let stamp = fixture.dir.join("version");
        if fs::read_to_string(&stamp).is_ok_and(|text| text == VERSION) {
            return Ok(fixture);
        }
        cmd::step(&format!("building the images of {}", family.name()), || {
            // In a process of its own: what a program used in memory is counted against the
            // programs it starts.
            let mut build = cmd::command(std::env::current_exe()?);
            build.args(["bench", "--build", family.name()]);
            if quick {
                build.arg("--quick");
            }
            cmd::run(&mut build)?;
            Ok(fs::write(stamp, VERSION)?)
        })?;
        Ok(fixture)
    }

    /// Builds the images from nothing.
    pub(super) fn build(family: Family, quick: bool) -> Result<()> {
        let fixture = Self::of(family, quick);
        let (size, _, base, each) = family.shape(quick);
        let _ = fs::remove_dir_all(&fixture.dir);
        fs::create_dir_all(&fixture.dir)?;
        let mut random = Random::new(1);
        let mut backing: Option<&str> = None;
        for (depth, name) in (0..).zip(&fixture.layers) {
            let data = if depth == 0 { base } else { each };
            let clusters = family.clusters(size, data, &mut random);
            let image = Image {
                size,
                clusters: &clusters,
                backing,
                seed: depth,
            };
            image.write(&fixture.dir.join(name))?;
            backing = Some(name);
        }
        let top = fixture.top();
        let check = ["check", "-q", top];
        let flatten = ["convert", "-W", "-m16", "-O", "qcow2", top, FLAT];
        for args in [&check[..], &flatten[..]] {
            let mut qemu_img = cmd::command("qemu-img");
            cmd::run(qemu_img.current_dir(&fixture.dir).args(args))?;
        }
        Ok(())
    }

    pub(super) fn top(&self) -> &str {
        self.below_top(0)
    }

    pub(super) fn base(&self) -> &str {
        self.layers.first().map_or("", String::as_str)
    }

    /// The layer `by` below the top one.
    pub(super) fn below_top(&self, by: usize) -> &str {
        let name = self.layers.iter().rev().nth(by);
        name.map_or("", String::as_str)
    }

    /// A fresh directory with the same files. Those in `changed` are copies with their holes,
    /// the others the same files under another name.
    pub(super) fn copy(&self, to: &Path, changed: &[&str]) -> Result<()> {
        let _ = fs::remove_dir_all(to);
        fs::create_dir_all(to)?;
        for name in self.layers.iter().map(String::as_str).chain([FLAT]) {
            let (from, to) = (self.dir.join(name), to.join(name));
            if changed.contains(&name) {
                let mut copy = cmd::command("cp");
                copy.args(["--sparse=always", "--reflink=auto"]);
                cmd::run(copy.arg(from).arg(to))?;
            } else {
                fs::hard_link(from, to)?;
            }
        }
        if self.layers.is_empty() {
            bail!("a family without layers");
        }
        Ok(())
    }
}
