//! Threads that help with the kernels' work.
//!
//! A step of training is some fifty short parallel loops with little between them. To put a thread to sleep after each and wake
//! it for the next takes about as long as the loop. So helpers keep looking for work for a while, and whoever has work takes part
//! in it and never waits for a helper that has not begun: helpers that are late, asleep or crowded out cost nothing.
//!
//! Where all take part, each takes pieces from a share of its own, neighbours of one another and the same ones in every loop of as
//! many pieces, and only then from the far ends of the others': what a core wrote it reads again, and few cache lines are
//! written by two.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long a helper looks for work before it sleeps: longer than what a step does between two loops.
const PATIENCE: Duration = Duration::from_micros(200);

/// What all of the process share.
pub(super) fn team() -> &'static Team {
    static TEAM: OnceLock<&'static Team> = OnceLock::new();
    // Unit tests compare the bytes that many threads make, on a machine of few.
    let helpers = || if cfg!(test) { 7 } else { rayon::current_num_threads().saturating_sub(1) };
    TEAM.get_or_init(|| Team::leak(helpers()))
}

thread_local! {
    /// Whether this thread is doing a piece of a job: what is parallel in that stays on it.
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
}

/// A loop that is being shared.
#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn(usize) + Sync),
    /// Shares that hold all of its pieces, the first that of the thread that brought it.
    shares: usize,
}

/// Pieces that are left of a share: the first in the upper half of the number, the one after the last in the lower.
///
/// Each has cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Share(AtomicU64);

impl Share {
    fn fill(&self, pieces: Range<usize>) {
        self.0.store((pieces.start as u64) << 32 | pieces.end as u64, SeqCst);
    }

    /// Takes a piece from the front, or from the back.
    fn take(&self, front: bool) -> Option<usize> {
        let (first, end) = (|pieces: u64| pieces >> 32, |pieces: u64| pieces & 0xffff_ffff);
        let less = |pieces: u64| {
            let left = first(pieces) < end(pieces);
            left.then(|| if front { pieces + (1 << 32) } else { pieces - 1 })
        };
        let pieces = self.0.fetch_update(SeqCst, SeqCst, less).ok()?;
        Some(if front { first(pieces) } else { end(pieces) - 1 } as usize)
    }
}

/// Helpers, and the job that they share with the thread that brought it.
pub(super) struct Team {
    /// Held by the thread whose job it is.
    turn: Mutex<()>,
    /// Goes up by one when a job opens and when it closes: odd while helpers may enter.
    state: AtomicUsize,
    /// Helpers that may be looking at `job`.
    inside: AtomicUsize,
    job: UnsafeCell<Job>,
    /// Helpers that came to this job, whether or not they were needed.
    entered: AtomicUsize,
    /// One for each thread.
    shares: Box<[Share]>,
    /// What a helper's piece panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    asleep: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
}

// SAFETY: `job` is the one part that is not `Sync`. It is written by the holder of `turn` while `state` is even and no helper is
// inside, and read by helpers that are inside and have then seen `state` odd; `state` orders the two. The function behind
// its pointer is `Sync`, and outlives the job: `Team::share` ends after the last helper has left.
unsafe impl Sync for Team {}
// SAFETY: as above.
unsafe impl Send for Team {}

impl Team {
    /// A team of so many helpers, for the rest of the process.
    fn leak(helpers: usize) -> &'static Self {
        let team: &Self = Box::leak(Box::new(Self {
            turn: Mutex::default(),
            state: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { work: &|_| (), shares: 0 }),
            entered: AtomicUsize::new(0),
            shares: (0..=helpers).map(|_| Share::default()).collect(),
            panic: Mutex::default(),
            asleep: AtomicUsize::new(0),
            bed: Mutex::default(),
            bell: Condvar::new(),
        }));
        for i in 1..=helpers {
            let thread = std::thread::Builder::new().name(format!("wgan-kernels-{i}"));
            // A system that grants no more threads gets the same results, later.
            let _ = thread.spawn(move || team.help(i));
        }
        team
    }

    /// Calls `work` with each number below `count`, on this thread and those of at most so many helpers.
    ///
    /// While another thread's job is shared, and inside a piece of one, all of it is done on this thread.
    pub(super) fn share(&self, count: usize, helpers: usize, work: &(dyn Fn(usize) + Sync)) {
        let turn = match self.turn.try_lock() {
            _ if AT_WORK.get() || helpers == 0 || count < 2 || count > u32::MAX as usize => None,
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        let Some(turn) = turn else {
            return (0..count).for_each(work);
        };
        let shares = self.shares.len().min(helpers + 1).min(count);
        for (i, share) in self.shares[..shares].iter().enumerate() {
            let end = |i: usize| (count as u64 * i as u64 / shares as u64) as usize;
            share.fill(end(i)..end(i + 1));
        }
        let open = self.open(turn, Job { work: erase(work), shares });
        AT_WORK.set(true);
        self.pieces(0, shares, work);
        drop(open);
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn open<'a>(&'a self, turn: MutexGuard<'a, ()>, job: Job) -> Open<'a> {
        // SAFETY: this thread has the turn, and the job before was closed with nobody left inside; who comes inside now finds
        // `state` even, and does not look.
        unsafe { *self.job.get() = job };
        *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.entered.store(0, SeqCst);
        self.state.fetch_add(1, SeqCst);
        // A helper says that it sleeps and then looks at `state` once more: it sees the job, or is seen here.
        let sleepers = self.asleep.load(SeqCst);
        if sleepers > 0 {
            let _bed = self.bed.lock();
            for _ in 0..sleepers.min(job.shares - 1) {
                self.bell.notify_one();
            }
        }
        Open { team: self, _turn: turn }
    }

    /// Does pieces while there are any: those of its own share, from the front, then those of the others, from the back.
    fn pieces(&self, own: usize, shares: usize, work: &(dyn Fn(usize) + Sync)) {
        for i in 0..shares {
            let share = &self.shares[(own + i) % shares];
            while let Some(piece) = share.take(i == 0) {
                work(piece);
            }
        }
    }

    /// What a helper does all its life.
    fn help(&self, own: usize) {
        AT_WORK.set(true);
        let mut done = 0;
        loop {
            let state = self.wait(done);
            self.inside.fetch_add(1, SeqCst);
            // Once more: a job that closed before this helper came inside may be gone.
            if self.state.load(SeqCst) == state {
                // SAFETY: this helper is inside and the job open, so it stays until the helper has left.
                let job = unsafe { *self.job.get() };
                if self.entered.fetch_add(1, SeqCst) + 1 < job.shares {
                    // SAFETY: as above; the function lives as long as the job.
                    let work = unsafe { &*job.work };
                    let pieces = AssertUnwindSafe(|| self.pieces(own, job.shares, work));
                    let result = catch_unwind(pieces);
                    if let Err(panic) = result {
                        *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                    }
                }
                done = state;
            }
            self.inside.fetch_sub(1, SeqCst);
        }
    }

    /// Waits for a job other than the one that is done.
    fn wait(&self, done: usize) -> usize {
        let news =
            || Some(self.state.load(SeqCst)).filter(|&state| state % 2 == 1 && state != done);
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            for _ in 0..32 {
                if let Some(state) = news() {
                    return state;
                }
                std::hint::spin_loop();
            }
        }
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, SeqCst);
        let state = loop {
            if let Some(state) = news() {
                break state;
            }
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        };
        self.asleep.fetch_sub(1, SeqCst);
        state
    }
}

/// A job that helpers may enter. Dropped, by the end of the work or by a panic in it, it closes and waits for them to leave.
struct Open<'a> {
    team: &'a Team,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        AT_WORK.set(false);
        let team = self.team;
        // Where this is a panic, helpers find nothing more to do.
        if std::thread::panicking() {
            team.shares.iter().for_each(|share| share.fill(0..0));
        }
        team.state.fetch_add(1, SeqCst);
        let mut looks = 0_u32;
        while team.inside.load(SeqCst) > 0 {
            looks += 1;
            if looks.is_multiple_of(1024) {
                // A helper in the middle of a piece may have been put aside for another program.
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

/// The function without its lifetime.
fn erase<'a>(work: &'a (dyn Fn(usize) + Sync + 'a)) -> *const (dyn Fn(usize) + Sync) {
    let work: *const (dyn Fn(usize) + Sync + 'a) = work;
    // SAFETY: only the lifetime differs. The pointer is followed while the job is open, which ends before `'a` does.
    unsafe { std::mem::transmute(work) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each piece once, for jobs one right after the other, after naps, of several threads at once, and within pieces.
    #[test]
    fn every_piece_is_done_once() {
        let team = Team::leak(3);
        let run = |count: usize, helpers: usize| {
            let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            team.share(count, helpers, &|i| {
                done[i].fetch_add(1, SeqCst);
                team.share(2, helpers, &|_| {
                    done[i].fetch_add(10, SeqCst);
                });
            });
            assert!(done.iter().all(|done| done.load(SeqCst) == 21), "{count} with {helpers}");
        };
        std::thread::scope(|scope| {
            for thread in 0..3 {
                scope.spawn(move || {
                    for round in 0..2000 {
                        run(1 + (round + thread) % 40, round % 5);
                        if round % 500 == 0 {
                            std::thread::sleep(3 * PATIENCE);
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn a_share_is_taken_from_both_ends() {
        let share = Share::default();
        assert_eq!(share.take(true), None);
        share.fill(3..7);
        let taken = [true, false, false, true, true, false].map(|front| share.take(front));
        assert_eq!(taken, [Some(3), Some(6), Some(5), Some(4), None, None]);
        let last = u32::MAX as usize;
        share.fill(last - 1..last);
        assert_eq!([share.take(false), share.take(true)], [Some(last - 1), None]);
    }

    #[test]
    fn helpers_take_part() {
        let team = Team::leak(1);
        let seen = Mutex::new(std::collections::BTreeSet::new());
        // Until both have been seen, however busy the machine.
        while seen.lock().unwrap().len() < 2 {
            team.share(4, 1, &|_| {
                seen.lock().unwrap().insert(format!("{:?}", std::thread::current().id()));
                std::thread::sleep(Duration::from_millis(1));
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::leak(2);
        for bad in 0..20 {
            let share = || team.share(20, 2, &|i| assert_ne!(i, bad, "this piece"));
            let panic = catch_unwind(AssertUnwindSafe(share)).unwrap_err();
            assert!(panic.downcast::<String>().unwrap().contains("this piece"));
            let done = AtomicUsize::new(0);
            team.share(20, 2, &|_| {
                done.fetch_add(1, SeqCst);
            });
            assert_eq!(done.load(SeqCst), 20);
        }
    }
}
