//! An output with a bounded queue and a thread of its own before it, so that no thread that logs ever waits for it.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use time::OffsetDateTime;

/// Lines that wait for the output hold no more memory than this; further lines are counted and dropped.
const LIMIT_BYTES: usize = 1024 * 1024;
/// After a panic of the writer, which is a line itself, and may be written by the same writer.
const PAUSE_AFTER_PANIC: Duration = Duration::from_secs(1);

/// A handle to the queue; the thread lives as long as the process.
pub struct Sink(Arc<Queue>);

/// A line, whole with its line end, and when it was logged.
pub struct Line {
    pub at: OffsetDateTime,
    pub bytes: Vec<u8>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Lines that are dropped since the queue was full. None is taken again before all that waited are written, so that
    /// what is missing is missing in one place.
    lost: u64,
    /// The thread writes something that is no longer in the queue.
    is_writing: bool,
}

enum Work {
    Write(Line),
    TellLoss(u64),
}

impl Sink {
    /// `write` gets one line after the other, in the order in which they were logged, and may block for as long as it
    /// likes. `tell_loss` gets the number of lines that were dropped, once there is room again.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(
        name: &str,
        mut write: impl FnMut(&Line) + Send + 'static,
        tell_loss: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Sink> {
        let queue = Arc::new(Queue::default());
        let sink = Sink(Arc::clone(&queue));
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            loop {
                let work = queue.next();
                let done = catch_unwind(AssertUnwindSafe(|| match work {
                    Work::Write(line) => write(&line),
                    Work::TellLoss(lost) => tell_loss(lost),
                }));
                if done.is_err() {
                    thread::sleep(PAUSE_AFTER_PANIC);
                }
            }
        })?;
        Ok(sink)
    }

    /// Appends a line, or counts it as lost. `line` is made under the queue's lock, so that lines stand in the order of
    /// the times that they bear.
    pub fn push(&self, line: impl FnOnce(OffsetDateTime) -> Vec<u8>) {
        let mut state = self.0.state.lock();
        let at = OffsetDateTime::now_utc();
        let bytes = line(at);
        if state.lost > 0 || state.bytes + bytes.len() > LIMIT_BYTES {
            state.lost += 1;
        } else {
            state.bytes += bytes.len();
            state.lines.push_back(Line { at, bytes });
        }
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits until everything is written, for no longer than until then. Whether it is.
    pub fn flush(&self, until: Instant) -> bool {
        let mut state = self.0.state.lock();
        self.0.changed.wait_while_until(&mut state, |state| !state.is_idle(), until);
        state.is_idle()
    }
}

impl Queue {
    fn next(&self) -> Work {
        let mut state = self.state.lock();
        loop {
            state.is_writing = true;
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.bytes.len();
                return Work::Write(line);
            }
            if state.lost > 0 {
                return Work::TellLoss(std::mem::take(&mut state.lost));
            }
            state.is_writing = false;
            self.changed.notify_all();
            self.changed.wait(&mut state);
        }
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.lines.is_empty() && self.lost == 0 && !self.is_writing
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn push(sink: &Sink, text: &str) {
        sink.push(|_| text.as_bytes().to_vec());
    }

    /// A sink whose output takes a line whenever the test lets it, and what it took.
    fn held() -> (Sink, mpsc::Sender<()>, mpsc::Receiver<String>) {
        let (let_go, permits) = mpsc::channel::<()>();
        let (took, taken) = mpsc::channel();
        let told = took.clone();
        let write = move |line: &Line| {
            let _ = permits.recv();
            let _ = took.send(String::from_utf8_lossy(&line.bytes).into_owned());
        };
        let tell_loss = move |lost| {
            let _ = told.send(format!("{lost} lost"));
        };
        (Sink::start("test", write, tell_loss).unwrap(), let_go, taken)
    }

    #[test]
    fn lines_keep_their_order_and_their_times() {
        let (took, taken) = mpsc::channel();
        let write = move |line: &Line| took.send((line.at, line.bytes.clone())).unwrap();
        let sink = Sink::start("test", write, |_| {}).unwrap();
        for number in 0..1000 {
            sink.push(|at| format!("{number} {at}").into_bytes());
        }
        assert!(sink.flush(Instant::now() + LONG));
        for number in 0..1000 {
            let (at, line) = taken.try_recv().unwrap();
            assert_eq!(String::from_utf8(line).unwrap(), format!("{number} {at}"));
        }
    }

    #[test]
    fn an_output_that_hangs_holds_up_nobody_and_what_is_lost_is_told() {
        let (sink, let_go, taken) = held();
        let line = "x".repeat(1024);
        // The first is in the hands of the thread, sooner or later, and so no longer counts.
        for _ in 0..1024 + 1 {
            push(&sink, &line);
        }
        let lost_at_least = 1000;
        for _ in 0..lost_at_least {
            push(&sink, &line);
        }
        assert!(!sink.flush(Instant::now()), "it hangs");
        drop(let_go);
        assert!(sink.flush(Instant::now() + LONG));
        let all: Vec<String> = taken.try_iter().collect();
        let lost: usize = all.last().unwrap().strip_suffix(" lost").unwrap().parse().unwrap();
        let written = all.len() - 1;
        assert!(written >= 1024 && lost >= lost_at_least, "{written} written, {lost} lost");
        assert_eq!(written + lost, 1025 + lost_at_least);
        push(&sink, "again");
        assert!(sink.flush(Instant::now() + LONG));
        assert_eq!(taken.try_recv().unwrap(), "again");
    }

    #[test]
    fn a_line_that_is_too_long_is_lost_alone() {
        let (sink, let_go, taken) = held();
        drop(let_go);
        push(&sink, &"x".repeat(LIMIT_BYTES + 1));
        sink.flush(Instant::now() + LONG);
        assert_eq!(taken.recv_timeout(LONG).unwrap(), "1 lost");
    }

    #[test]
    fn a_writer_that_panics_goes_on() {
        let (took, taken) = mpsc::channel();
        let write = move |line: &Line| {
            assert_ne!(line.bytes, b"bad");
            took.send(line.bytes.clone()).unwrap();
        };
        let sink = Sink::start("test", write, |_| {}).unwrap();
        push(&sink, "bad");
        push(&sink, "good");
        assert!(sink.flush(Instant::now() + LONG));
        assert_eq!(taken.try_recv().unwrap(), b"good");
    }
}
