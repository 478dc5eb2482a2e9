//! Several threads for a plan's own work.

use backchain::plan::Task;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Does all `parts` of a task with as many threads as there are processors, the caller's among
/// them.
pub fn share_out(parts: usize, task: &dyn Task) {
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= parts {
                return;
            }
            task.part(number);
        }
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let others = processors.min(parts).saturating_sub(1);
    thread::scope(|scope| {
        for _ in 0..others {
            scope.spawn(work);
        }
        work();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(Vec<AtomicUsize>);
    impl Task for Count {
        fn part(&self, number: usize) {
            self.0[number].fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_part_is_done_once() {
        for parts in [0, 1, 2, 1000] {
            let count = Count((0..parts).map(|_| AtomicUsize::new(0)).collect());
            share_out(parts, &count);
            assert!(count.0.iter().all(|n| n.load(Ordering::Relaxed) == 1));
        }
    }
}
