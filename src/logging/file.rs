//! `logs/cloacina-server.log`: renamed every day, made again when it is taken away, and never waited for.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime};

use crate::config::private_directory;

const NAME: &str = "cloacina-server.log";

/// Files of days gone by that are kept.
const KEPT: usize = 14;

/// Between two looks at whether the file is still in its place, and between two tries to open it.
const LOOK_EVERY: Duration = Duration::SECOND;

/// The log file. It is opened when something is written, and again when it has to be.
pub struct LogFile {
    home: PathBuf,
    open: Option<Open>,
    looked_at: Option<OffsetDateTime>,
    /// Lines that are lost since writing began to fail.
    failing: Option<u64>,
}

struct Open {
    file: File,
    /// The day of its lines, in UTC.
    day: Date,
}

impl LogFile {
    pub fn new(home: &Path) -> LogFile {
        LogFile { home: home.to_owned(), open: None, looked_at: None, failing: None }
    }

    /// Appends a line, or loses it when that fails. Returns what should be said of that elsewhere: something when
    /// writing begins to fail and when it works again.
    pub fn write(&mut self, now: OffsetDateTime, line: &[u8]) -> Vec<String> {
        let mut reports = Vec::new();
        let path = self.path();
        let look = self.looked_at.is_none_or(|at| (now - at).abs() >= LOOK_EVERY);
        if look {
            self.looked_at = Some(now);
        }
        let opened = match self.open.take() {
            Some(open) if open.day == now.date() && (!look || is_at(&open.file, &path)) => Ok(open),
            // Not tried again with every line.
            None if self.failing.is_some() && !look => {
                self.failing = self.failing.map(|lost| lost + 1);
                return reports;
            }
            before => self.reopen(before, now, &mut reports),
        };
        match opened.and_then(|mut open| append_whole(&mut open.file, line).map(|()| open)) {
            Ok(open) => {
                self.open = Some(open);
                if let Some(lost) = self.failing.take() {
                    reports.push(format!("{} works again; {lost} lines are missing in it", path.display()));
                }
            }
            Err(error) => {
                if self.failing.is_none() {
                    reports.push(format!("cannot write {}, so lines get lost: {error}", path.display()));
                }
                self.failing = Some(self.failing.unwrap_or(0) + u64::from(!line.is_empty()));
            }
        }
        reports
    }

    fn path(&self) -> PathBuf {
        self.home.join("logs").join(NAME)
    }

    /// Opens the file, having put away one of another day.
    fn reopen(
        &self,
        before: Option<Open>,
        now: OffsetDateTime,
        reports: &mut Vec<String>,
    ) -> io::Result<Open> {
        let path = self.path();
        let directory = self.home.join("logs");
        private_directory(&self.home)?;
        private_directory(&directory)?;
        // Another process that logs here may be at it. Then it does what there is to do, and the next look finds it.
        let lock = File::open(&directory)?;
        if !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            let day = match fs::metadata(&path) {
                Ok(there) if there.is_file() && there.len() > 0 => match before {
                    Some(open) if is_at(&open.file, &path) => open.day,
                    _ => OffsetDateTime::from(there.modified()?).date(),
                },
                _ => now.date(),
            };
            if day != now.date()
                && let Err(error) = put_away(&path, &directory.join(format!("{NAME}.{day}")))
            {
                reports.push(format!("cannot rename {}: {error}", path.display()));
            }
            remove_old(&directory);
        }
        Ok(Open { file: open(&path)?, day: now.date() })
    }
}

/// Whether this is the file that has this name now.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Opening a pipe would wait for its reader.
    if let Ok(there) = fs::metadata(path)
        && !there.is_file()
        && !there.file_type().is_char_device()
    {
        return Err(io::Error::other("it is not a file"));
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    end_line(&mut file)?;
    Ok(file)
}

/// Where the power went off in the middle of a line, the next one must not become part of it.
fn end_line(file: &mut File) -> io::Result<()> {
    let there = file.metadata()?;
    if !there.is_file() || there.len() == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}

/// Appends all of a line or nothing of it: a full disk may take its first half.
fn append_whole(file: &mut File, line: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < line.len() {
        match file.write(&line[done..]) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                if let Ok(there) = file.metadata()
                    && done > 0
                {
                    let _ = file.set_len(there.len().saturating_sub(done as u64));
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Renames the file. Where the new name is taken, the lines are appended to what has it.
fn put_away(path: &Path, target: &Path) -> io::Result<()> {
    if fs::symlink_metadata(target).is_err() {
        return fs::rename(path, target);
    }
    let mut to = OpenOptions::new().read(true).append(true).open(target)?;
    let before = to.metadata()?.len();
    let copied = end_line(&mut to)
        .and_then(|()| io::copy(&mut File::open(path)?, &mut to))
        .and_then(|_| to.sync_data());
    if copied.is_err() {
        let _ = to.set_len(before);
    }
    copied?;
    fs::remove_file(path)
}

/// Removes the oldest files that we have put away. Whatever has another kind of name is not ours.
fn remove_old(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut days: Vec<Date> = entries.filter_map(|entry| day_of(entry.ok()?.file_name().to_str()?)).collect();
    days.sort_unstable();
    for day in days.iter().rev().skip(KEPT) {
        let _ = fs::remove_file(directory.join(format!("{NAME}.{day}")));
    }
}

/// The day in the name of a file that was put away.
fn day_of(name: &str) -> Option<Date> {
    let text = name.strip_prefix(NAME)?.strip_prefix('.')?;
    let day = Date::parse(text, format_description!("[year]-[month]-[day]")).ok()?;
    (day.to_string() == text).then_some(day)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use time::macros::datetime;

    use super::*;

    /// A home directory that goes when it is dropped.
    struct Home(PathBuf);

    impl Home {
        fn new() -> Home {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("cloacina-logfile-{}-{count}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Home(path)
        }

        fn log(&self, name: &str) -> PathBuf {
            self.0.join("logs").join(name)
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.log(name)).unwrap()
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const EVENING: OffsetDateTime = datetime!(2026-04-02 23:59:59 UTC);
    const MORNING: OffsetDateTime = datetime!(2026-04-03 00:00:00 UTC);

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    fn touch(path: &Path, at: OffsetDateTime) {
        File::options().append(true).open(path).unwrap().set_modified(at.into()).unwrap();
    }

    #[test]
    fn a_new_day_is_a_new_file() {
        let home = Home::new();
        let mut log = LogFile::new(&home.0);
        assert_eq!(log.write(EVENING, b"1\n"), [""; 0]);
        assert_eq!(log.write(MORNING, b"2\n"), [""; 0]);
        assert_eq!(log.write(MORNING, b"3\n"), [""; 0]);
        assert_eq!(home.text("cloacina-server.log.2026-04-02"), "1\n");
        assert_eq!(home.text(NAME), "2\n3\n");
        assert_eq!(mode(&home.0), 0o700);
        assert_eq!(mode(&home.log("")), 0o700);
        assert_eq!(mode(&home.log(NAME)), 0o600);
    }

    #[test]
    fn a_file_found_at_the_start_goes_to_its_own_day() {
        let home = Home::new();
        fs::create_dir_all(home.log("")).unwrap();
        fs::write(home.log(NAME), "old\n").unwrap();
        touch(&home.log(NAME), datetime!(2026-03-30 12:00 UTC));
        LogFile::new(&home.0).write(MORNING, b"new\n");
        assert_eq!(home.text("cloacina-server.log.2026-03-30"), "old\n");
        assert_eq!(home.text(NAME), "new\n");
        // One of today is gone on with, and a torn line in it ended.
        fs::write(home.log(NAME), "new\n{torn").unwrap();
        touch(&home.log(NAME), MORNING);
        LogFile::new(&home.0).write(MORNING, b"newer\n");
        assert_eq!(home.text(NAME), "new\n{torn\nnewer\n");
    }

    #[test]
    fn a_name_that_is_taken_is_appended_to() {
        let home = Home::new();
        fs::create_dir_all(home.log("")).unwrap();
        // The power went off in the middle of its last line.
        fs::write(home.log("cloacina-server.log.2026-04-02"), "{torn").unwrap();
        let mut log = LogFile::new(&home.0);
        log.write(EVENING, b"1\n");
        log.write(MORNING, b"2\n");
        assert_eq!(home.text("cloacina-server.log.2026-04-02"), "{torn\n1\n");
        assert_eq!(home.text(NAME), "2\n");
    }

    #[test]
    fn a_name_that_cannot_be_had_loses_nothing() {
        let home = Home::new();
        fs::create_dir_all(home.log("cloacina-server.log.2026-04-02")).unwrap();
        let mut log = LogFile::new(&home.0);
        log.write(EVENING, b"1\n");
        assert_eq!(log.write(MORNING, b"2\n").len(), 1);
        assert_eq!(log.write(MORNING, b"3\n").len(), 0);
        assert_eq!(home.text(NAME), "1\n2\n3\n");
        log.write(MORNING + Duration::DAY, b"4\n");
        assert_eq!(home.text("cloacina-server.log.2026-04-03"), "1\n2\n3\n");
    }

    #[test]
    fn fourteen_are_kept_and_nothing_else_is_touched() {
        let home = Home::new();
        fs::create_dir_all(home.log("")).unwrap();
        let others = ["+2026-01-01", "2026-01-01.gz", "2026-1-01", "2026-13-01", "bak", "2026-01-01 "];
        for other in others {
            fs::write(home.log(&format!("{NAME}.{other}")), "").unwrap();
        }
        for day in 1..=20 {
            fs::write(home.log(&format!("{NAME}.2026-03-{day:02}")), "").unwrap();
        }
        let mut log = LogFile::new(&home.0);
        log.write(EVENING, b"1\n");
        log.write(MORNING, b"2\n");
        let kept: Vec<_> =
            fs::read_dir(home.log("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(kept.len(), 14 + 1 + others.len());
        assert!(!home.log("cloacina-server.log.2026-03-07").exists());
        assert!(home.log("cloacina-server.log.2026-03-08").exists());
        assert!(home.log("cloacina-server.log.2026-04-02").exists());
    }

    #[test]
    fn what_is_taken_away_is_made_again_within_a_second() {
        let home = Home::new();
        let mut log = LogFile::new(&home.0);
        let mut now = MORNING;
        log.write(now, b"1\n");
        fs::rename(home.log(NAME), home.log("moved")).unwrap();
        log.write(now, b"2\n");
        now += LOOK_EVERY;
        log.write(now, b"3\n");
        assert_eq!(home.text("moved"), "1\n2\n");
        assert_eq!(home.text(NAME), "3\n");
        fs::remove_dir_all(&home.0).unwrap();
        now += LOOK_EVERY;
        assert_eq!(log.write(now, b"4\n"), [""; 0]);
        assert_eq!(home.text(NAME), "4\n");
        assert_eq!(mode(&home.0), 0o700);
    }

    #[test]
    fn another_file_in_its_place_is_gone_on_with() {
        let home = Home::new();
        let mut log = LogFile::new(&home.0);
        let noon = MORNING + Duration::HOUR * 12;
        log.write(noon, b"1\n");
        // Within an hour that a clock was put back by, too.
        for (now, moved) in [(noon + LOOK_EVERY, "moved"), (noon - Duration::HOUR, "moved too")] {
            fs::rename(home.log(NAME), home.log(moved)).unwrap();
            fs::write(home.log(NAME), "made by others\n").unwrap();
            touch(&home.log(NAME), now);
            log.write(now, b"2\n");
            assert_eq!(home.text(NAME), "made by others\n2\n");
        }
    }

    #[test]
    fn two_processes_do_not_put_it_away_at_once() {
        let home = Home::new();
        let mut log = LogFile::new(&home.0);
        log.write(EVENING, b"1\n");
        let other = File::open(home.log("")).unwrap();
        other.lock().unwrap();
        assert_eq!(log.write(MORNING, b"2\n"), [""; 0]);
        assert_eq!(home.text(NAME), "1\n2\n");
        assert!(!home.log("cloacina-server.log.2026-04-02").exists());
    }

    #[test]
    fn a_pipe_is_no_log_file() {
        let home = Home::new();
        fs::create_dir_all(home.log("")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(home.log(NAME)).status().unwrap();
        assert!(made.success());
        let reports = LogFile::new(&home.0).write(MORNING, b"lost\n");
        assert!(reports[0].ends_with("it is not a file"), "{reports:?}");
    }

    #[test]
    fn trouble_is_said_once_and_its_end_too() {
        let home = Home::new();
        fs::write(&home.0, "in the way").unwrap();
        let mut log = LogFile::new(&home.0);
        let mut now = MORNING;
        assert_eq!(log.write(now, b"").len(), 1);
        for _ in 0..3 {
            now += LOOK_EVERY;
            assert_eq!(log.write(now, b"lost\n"), [""; 0]);
        }
        fs::remove_file(&home.0).unwrap();
        assert_eq!(log.write(now, b"lost too, because this is the same second\n"), [""; 0]);
        now += LOOK_EVERY;
        let reports = log.write(now, b"there\n");
        assert_eq!(reports.len(), 1);
        assert!(reports[0].ends_with("works again; 4 lines are missing in it"), "{reports:?}");
        assert_eq!(home.text(NAME), "there\n");
    }

    #[test]
    fn a_full_disk_is_survived() {
        let home = Home::new();
        let mut log = LogFile::new(&home.0);
        fs::create_dir_all(home.log("")).unwrap();
        std::os::unix::fs::symlink("/dev/full", home.log(NAME)).unwrap();
        let mut now = EVENING;
        let reports = log.write(now, b"lost\n");
        assert!(reports[0].contains("No space left on device"), "{reports:?}");
        now += LOOK_EVERY;
        assert_eq!(log.write(now, b"lost\n"), [""; 0]);
        fs::remove_file(home.log(NAME)).unwrap();
        now += LOOK_EVERY;
        assert_eq!(log.write(now, b"there\n").len(), 1);
        assert_eq!(home.text(NAME), "there\n");
    }

    #[test]
    fn a_clock_that_goes_back_loses_nothing() {
        let home = Home::new();
        let mut log = LogFile::new(&home.0);
        for now in [MORNING, EVENING, MORNING, EVENING] {
            assert_eq!(log.write(now, b"1\n"), [""; 0]);
        }
        assert_eq!(home.text("cloacina-server.log.2026-04-03"), "1\n1\n");
        assert_eq!(home.text("cloacina-server.log.2026-04-02"), "1\n");
        assert_eq!(home.text(NAME), "1\n");
    }
}
