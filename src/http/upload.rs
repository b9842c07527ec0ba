//! Bodies that are too large for memory: a thread writes them to unlinked files, so that neither the event loop nor a
//! worker waits for a disk while a client sends.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use mio::Token;
use nix::libc;
use uuid::Uuid;

use super::completions::{Completion, Outcome};
use super::error::Error;
use super::worker_pool::ServerContext;
use crate::background::restart_on_panic;
use crate::channel::{Receiver, Sender, channel};

/// Bodies that are received or used at the same time: each holds room on the disk until its request is answered.
pub const MOST_UPLOADS: usize = 8;
/// Of them, those to the same path, so that its clients leave places for those of others.
const MOST_UPLOADS_OF_A_PATH: usize = 2;

/// Where the event loop has bodies written.
pub struct Uploads {
    tasks: Sender<Task>,
    /// The path of each. An upload holds its own until its file is closed.
    places: Vec<Weak<str>>,
}

/// A body, or as much of it as has come. One thread at a time has it: the event loop, the thread that writes, or a
/// worker. Dropped, its file is closed by the thread that writes, since that frees its blocks.
pub struct Upload {
    tasks: Sender<Task>,
    place: Arc<str>,
    file: Option<File>,
    /// Bytes.
    length: u64,
}

enum Task {
    /// Appends a piece; the file is made first, where there is none yet.
    Write {
        token: Token,
        upload: Upload,
        piece: Vec<u8>,
    },
    Close {
        file: File,
        place: Arc<str>,
    },
}

impl Uploads {
    /// Starts the thread that writes. `directory` is where the files have their blocks.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(server: &Arc<ServerContext>, directory: PathBuf) -> io::Result<Uploads> {
        let (tasks, work) = channel();
        let server = Arc::clone(server);
        // Not joined: it ends with the last upload, and at the end of the process there is none whose client waits.
        std::thread::Builder::new()
            .name("uploads".to_owned())
            .spawn(move || restart_on_panic(|| write(&work, &server, &directory)))?;
        Ok(Uploads { tasks, places: Vec::new() })
    }

    /// A place for one more body to this path.
    ///
    /// # Errors
    /// 503 while there is none.
    pub fn reserve(&mut self, path: &str) -> Result<Upload, Error> {
        self.places.retain(|place| place.strong_count() > 0);
        let of_path = self.places.iter().filter(|place| place.upgrade().is_some_and(|taken| *taken == *path));
        if of_path.count() >= MOST_UPLOADS_OF_A_PATH {
            return Err(Error::TooManyUploads(MOST_UPLOADS_OF_A_PATH));
        }
        if self.places.len() >= MOST_UPLOADS {
            return Err(Error::Overloaded);
        }
        let place = Arc::from(path);
        self.places.push(Arc::downgrade(&place));
        Ok(Upload { tasks: self.tasks.clone(), place, file: None, length: 0 })
    }
}

/// While the disk hangs, so does this thread, and nothing else: the event loop answers those whose piece it has at the
/// deadline for answers, and all further uploads are refused, since the places stay taken.
fn write(tasks: &Receiver<Task>, server: &ServerContext, directory: &Path) {
    while let Ok(task) = tasks.recv() {
        match task {
            Task::Write { token, mut upload, piece } => {
                let stored = match upload.append(directory, &piece) {
                    Ok(()) => Ok(upload),
                    Err(error) => {
                        // Its blocks are free again before its client is answered.
                        upload.file = None;
                        Err(error)
                    }
                };
                server.completions.post(Completion { token, outcome: Outcome::Stored(stored) });
            }
            Task::Close { file, place } => drop((file, place)),
        }
    }
}

impl Upload {
    /// Has a piece appended. The upload comes back as a completion of the connection with that token.
    pub fn store(self, token: Token, piece: Vec<u8>) {
        let _ = self.tasks.clone().send(Task::Write { token, upload: self, piece });
    }

    /// The bytes that have come so far. The file's position is its start.
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Bytes that have come.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn append(&mut self, directory: &Path, piece: &[u8]) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => create(directory)?,
        };
        let file = self.file.insert(file);
        // At its place instead of at the file's position, which stays where the reader begins.
        file.write_all_at(piece, self.length)?;
        self.length += piece.len() as u64;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            let _ = self.tasks.send(Task::Close { file, place: Arc::clone(&self.place) });
        }
    }
}

/// A file without a name: whatever ends the process, its blocks are free then.
fn create(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().custom_flags(libc::O_TMPFILE | libc::O_EXCL).open(directory) {
        // Not every file system has such files.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) =>
        {
            let path = directory.join(format!(".upload-{}", Uuid::new_v4()));
            let file = options.create_new(true).open(&path)?;
            fs::remove_file(&path)?;
            Ok(file)
        }
        other => other,
    }
}

/// What the client is told of a body that cannot be kept. A full disk is 507 (RFC 4918, 11.5), not 503: the server is not
/// overloaded, and the same body will not fit a second later.
pub fn refusal(error: &io::Error) -> Error {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => Error::StorageFull,
        _ => Error::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::process::Command;
    use std::thread::{self, JoinHandle};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::http::connection::{Deadlines, Rules};
    use crate::http::event_loop::{EventLoop, Limits};
    use crate::http::request::Request;
    use crate::http::response::Response;
    use crate::http::router::{BodyKind, Routed, Service, StreamLimit, TEST_ROUTE};
    use crate::http::worker_pool::{self, Counts};

    const MIB: usize = 1024 * 1024;
    const SECOND: Duration = Duration::from_secs(1);
    /// Set in a test that runs in a process of its own.
    const CHILD: &str = "CLOACINA_TEST_CHILD";

    /// Takes bodies at two paths, and says how long they are and what they hold.
    struct Streams;

    impl Service for Streams {
        fn route(&self, _method: &'static str, path: &str) -> Result<Routed, (Error, &'static str)> {
            match path.trim_end_matches(|character: char| character.is_ascii_digit()) {
                "/large" => Ok(Routed { body: BodyKind::Stream, index: 256 * MIB, ..TEST_ROUTE }),
                "/small" => Ok(Routed { body: BodyKind::Stream, index: MIB, ..TEST_ROUTE }),
                _ => Ok(TEST_ROUTE),
            }
        }

        fn stream_limit(&self, routed: Routed, _content_type: Option<&str>) -> StreamLimit {
            StreamLimit { bytes: routed.index, text: "too large for a test".to_owned() }
        }

        fn may_be_stored(&self, _path: &str) -> bool {
            false
        }

        fn database_answers(&self) -> bool {
            true
        }

        fn answer_now(&self, _routed: Routed, request: &Request<'_>) -> Option<Response> {
            (request.path == "/now").then(Response::no_content)
        }

        fn refusal(&self, _routed: Routed, request: &Request<'_>) -> Option<Response> {
            assert!(request.body.is_empty() && request.upload.take().is_none(), "nothing of it is there yet");
            match request.authorization {
                None => Some(Response::error(401, "no key")),
                Some("Bearer reader") => Some(Response::error(403, "a key that only reads")),
                Some(_) => None,
            }
        }

        fn answer(&self, _routed: Option<Routed>, request: &Request<'_>) -> Response {
            if request.authorization == Some("Bearer revoked-meanwhile") {
                return Response::error(401, "revoked");
            }
            let Some(upload) = request.upload.take() else { return Response::no_content() };
            let mut file = upload.file().unwrap();
            assert!(request.body.is_empty());
            let (mut hasher, mut length, mut buffer) = (crc32fast::Hasher::new(), 0, vec![0; MIB / 16]);
            loop {
                match file.read(&mut buffer).unwrap() {
                    0 => break,
                    count => {
                        hasher.update(&buffer[..count]);
                        length += count;
                    }
                }
            }
            Response::bytes(200, "text/plain", format!("{length} {:08x}", hasher.finalize()).into_bytes())
        }
    }

    /// An event loop with its workers, and a directory for its files.
    struct Server {
        address: SocketAddr,
        directory: PathBuf,
        server: Arc<ServerContext>,
        event_loop: Option<JoinHandle<usize>>,
        workers: Vec<JoinHandle<()>>,
    }

    impl Server {
        fn start() -> Server {
            Server::with(SECOND * 10)
        }

        /// `request`: the deadline for requests.
        fn with(request: Duration) -> Server {
            let directory = std::env::temp_dir().join(format!("cloacina-uploads-{}", Uuid::new_v4()));
            fs::create_dir(&directory).unwrap();
            let (poll, server) = ServerContext::for_tests(64, Arc::new(Streams));
            let counts = Counts { reads: 2, changes: 2 };
            let workers = worker_pool::start(&server, counts, &std::env::temp_dir()).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let [idle, write, answer, answer_to_change, answer_to_upload] = [SECOND * 30; 5];
            let deadlines = Deadlines { request, idle, write, answer, answer_to_change, answer_to_upload };
            let limits = Limits {
                connections: 4000,
                rules: Rules { deadlines, trusted_proxies: Default::default() },
                upload_directory: directory.clone(),
                has_successor: false,
            };
            let event_loop = EventLoop::new(poll, listener, limits, Arc::clone(&server)).unwrap();
            let event_loop = Some(thread::spawn(move || event_loop.run(SECOND * 20).unwrap()));
            Server { address, directory, server, event_loop, workers }
        }

        fn client(&self) -> Client {
            let stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(SECOND * 20)).unwrap();
            Client(stream)
        }

        fn metric(&self, line: &str) -> String {
            let text = String::from_utf8(self.server.status.metrics.render()).unwrap();
            let found = text.lines().find_map(|one| one.strip_prefix(line));
            found.unwrap_or_default().trim().to_owned()
        }

        /// Files of bodies that are open, by what /proc says of them.
        fn open_files(&self) -> usize {
            let names = fs::read_dir("/proc/self/fd").unwrap().flatten();
            names
                .filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.starts_with(&self.directory)))
                .count()
        }

        fn waits_for_files(&self, count: usize) {
            let began = Instant::now();
            while self.open_files() != count {
                assert!(began.elapsed() < SECOND * 20, "{} files are open, not {count}", self.open_files());
                thread::sleep(Duration::from_millis(5));
            }
        }

        fn drain(&self) {
            self.server.status.start_draining();
            self.server.completions.wake();
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.drain();
            let cut_off = self.event_loop.take().map(JoinHandle::join);
            self.server.close();
            self.workers.drain(..).for_each(|worker| worker.join().unwrap());
            if !thread::panicking() {
                assert_eq!(cut_off.unwrap().unwrap(), 0, "no connection is cut off");
                assert_eq!(self.server.status.metrics.requests_in_flight.get(), 0);
                assert_eq!(fs::read_dir(&self.directory).unwrap().count(), 0, "no name is left");
            }
            let _ = fs::remove_dir_all(&self.directory);
        }
    }

    struct Client(TcpStream);

    impl Client {
        fn send(&mut self, bytes: impl AsRef<[u8]>) {
            self.0.write_all(bytes.as_ref()).unwrap();
        }

        /// A head; further field lines end with CR LF each.
        fn begin(&mut self, path: &str, key: &str, fields: &str) {
            let key = if key.is_empty() { String::new() } else { format!("Authorization: Bearer {key}\r\n") };
            self.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\n{key}{fields}\r\n"));
        }

        /// Status and body of the next answer, and whether it ends the connection.
        fn answer(&mut self) -> (u16, String, bool) {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                self.0.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let length = head
                .split("Content-Length: ")
                .nth(1)
                .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).unwrap();
            let status = head[9..12].parse().unwrap();
            (status, String::from_utf8(body).unwrap(), head.contains("\r\nConnection: close\r\n"))
        }

        fn has_ended(&mut self) -> bool {
            self.0.read(&mut [0]).is_ok_and(|count| count == 0)
        }
    }

    /// What the service says of a body.
    fn taken(body: &[u8]) -> (u16, String, bool) {
        (200, format!("{} {:08x}", body.len(), crc32fast::hash(body)), false)
    }

    /// Bytes of which no two pieces are alike.
    fn body(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
    }

    fn chunked(body: &[u8], size: usize) -> Vec<u8> {
        let chunks = body
            .chunks(size)
            .map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        chunks.chain([b"0\r\n\r\n".to_vec()]).collect::<Vec<_>>().concat()
    }

    /// In a process of its own, started by a shell: other tests disturb figures, and some limits are a process's.
    fn runs_alone(name: &str, shell: &str) -> bool {
        if std::env::var_os(CHILD).is_some() {
            return false;
        }
        let run = Command::new("sh")
            .args(["-c", &format!("{shell} exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &format!("http::upload::tests::{name}"), "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
        assert!(said.contains("1 passed"), "{said}");
        print!("{said}");
        true
    }

    #[test]
    fn bodies_come_whole_and_the_connection_goes_on() {
        let server = Server::start();
        let mut client = server.client();
        for length in [0, 1, 16 * 1024, 16 * 1024 + 1, 700_000] {
            let body = body(length);
            client.begin("/small", "writer", &format!("Content-Length: {length}\r\n"));
            client.send(&body);
            assert_eq!(client.answer(), taken(&body), "{length}");
            for size in [1000, 70_000] {
                client.begin("/small", "writer", "Transfer-Encoding: chunked\r\n");
                client.send(chunked(&body, size));
                assert_eq!(client.answer(), taken(&body), "{length} in chunks of {size}");
            }
        }
        server.waits_for_files(0);
        assert_eq!(server.metric("cloacina_http_rejected_total"), "");
    }

    #[test]
    fn answers_keep_their_order_behind_an_upload() {
        let server = Server::start();
        let mut client = server.client();
        let (first, second) = (body(100_000), body(30));
        let upload = |fields: &str, body: &[u8]| {
            let head =
                format!("POST /small HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer w\r\n{fields}\r\n\r\n");
            [head.as_bytes(), body].concat()
        };
        client.send(
            [
                upload("Content-Length: 100000", &first),
                b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
                upload("Transfer-Encoding: chunked", &chunked(&second, 7)),
                b"POST /worker HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
            ]
            .concat(),
        );
        assert_eq!(client.answer(), taken(&first));
        assert_eq!(client.answer().0, 204);
        assert_eq!(client.answer(), taken(&second));
        assert_eq!(client.answer().0, 204);
    }

    #[test]
    fn who_may_not_send_a_body_hears_so_before_it() {
        let server = Server::start();
        for (path, key, length, status) in [
            ("/large", "", 100, 401),
            ("/large", "reader", 100, 403),
            ("/large", "", usize::MAX, 401),
            ("/large", "writer", 256 * MIB + 1, 413),
            ("/small", "writer", MIB + 1, 413),
            ("/other", "", 64 * 1024 + 1, 413),
        ] {
            let mut client = server.client();
            client.begin(path, key, &format!("Content-Length: {length}\r\nExpect: 100-continue\r\n"));
            let (found, _, ends) = client.answer();
            assert_eq!((found, ends), (status, true), "{path} {key} {length}");
            assert!(client.has_ended());
        }
        let mut client = server.client();
        client.begin("/small", "reader", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n");
        assert_eq!(client.answer().0, 403);
        assert_eq!(server.open_files(), 0, "no file was made for any of them");
    }

    #[test]
    fn a_client_is_invited_once_it_is_authorized() {
        let server = Server::start();
        let mut client = server.client();
        for fields in ["Content-Length: 50000", "Transfer-Encoding: chunked"] {
            client.begin("/small", "writer", &format!("{fields}\r\nExpect: 100-continue\r\n"));
            assert_eq!(client.answer(), (100, String::new(), false));
            let body = body(50_000);
            client.send(if fields.starts_with('C') { body.clone() } else { chunked(&body, 4000) });
            assert_eq!(client.answer(), taken(&body));
        }
    }

    #[test]
    fn a_key_that_was_revoked_meanwhile_is_refused() {
        let server = Server::start();
        let mut client = server.client();
        client.begin("/small", "revoked-meanwhile", "Content-Length: 100\r\n");
        client.send(body(100));
        assert_eq!(client.answer(), (401, "{\"error\":\"revoked\"}".to_owned(), false));
        server.waits_for_files(0);
    }

    #[test]
    fn chunks_that_are_too_many_or_malformed_end_the_upload() {
        let server = Server::start();
        for (chunks, status) in [(chunked(&body(MIB + 1), 60_000), 413), (b"2\r\nabc\r\n".to_vec(), 400)] {
            let mut client = server.client();
            client.begin("/small", "writer", "Transfer-Encoding: chunked\r\n");
            client.send(chunks);
            let (found, _, ends) = client.answer();
            assert_eq!((found, ends), (status, true));
        }
        server.waits_for_files(0);
    }

    /// So that each path has as many uploads as it may have.
    fn own_path(number: usize) -> String {
        format!("/small{}", number / MOST_UPLOADS_OF_A_PATH)
    }

    #[test]
    fn a_path_leaves_places_for_others() {
        let server = Server::start();
        let mut clients: Vec<_> = (0..MOST_UPLOADS_OF_A_PATH).map(|_| server.client()).collect();
        for client in &mut clients {
            client.begin("/small", "writer", "Content-Length: 100000\r\n");
        }
        server.waits_for_files(MOST_UPLOADS_OF_A_PATH);
        let fields = "Content-Length: 5\r\nExpect: 100-continue\r\n";
        let mut third = server.client();
        third.begin("/small", "writer", fields);
        let (status, text, ends) = third.answer();
        assert!(status == 503 && ends && text.contains("2 bodies to this path are on their way"), "{text}");
        let mut other = server.client();
        other.begin("/small1", "writer", fields);
        assert_eq!(other.answer().0, 100);
        other.send(b"other");
        assert_eq!(other.answer(), taken(b"other"));
        for client in &mut clients {
            client.send(body(100_000));
            assert_eq!(client.answer(), taken(&body(100_000)));
        }
        server.waits_for_files(0);
        let mut third = server.client();
        third.begin("/small", "writer", fields);
        assert_eq!(third.answer().0, 100);
    }

    /// Each piece comes in time, and all of them would take hours.
    #[test]
    fn a_body_that_only_trickles_is_given_up() {
        let server = Server::with(SECOND);
        let mut client = server.client();
        client.begin("/small", "writer", "Transfer-Encoding: chunked\r\n");
        let chunk = [b"1000\r\n".to_vec(), body(4096), b"\r\n".to_vec()].concat();
        let began = Instant::now();
        client.0.set_read_timeout(Some(SECOND / 5)).unwrap();
        // 20 KiB a second.
        while client.0.peek(&mut [0]).is_err() {
            assert!(began.elapsed() < SECOND * 60, "it goes on for ever");
            client.send(&chunk);
        }
        assert_eq!(client.answer().0, 408);
        server.waits_for_files(0);
    }

    #[test]
    fn a_cut_frees_file_and_place() {
        let server = Server::start();
        for round in 0..3 {
            let mut clients: Vec<_> = (0..MOST_UPLOADS).map(|_| server.client()).collect();
            for (number, client) in clients.iter_mut().enumerate() {
                client.begin(&own_path(number), "writer", "Content-Length: 100000\r\n");
                client.send(body(50_000));
            }
            server.waits_for_files(MOST_UPLOADS);
            let mut late = server.client();
            late.begin("/small99", "writer", "Content-Length: 5\r\nExpect: 100-continue\r\n");
            let overloaded = (503, "{\"error\":\"server is overloaded\"}".to_owned(), true);
            assert_eq!(late.answer(), overloaded, "all places are taken, {round}");
            drop(clients);
            server.waits_for_files(0);
        }
        let mut client = server.client();
        client.begin("/small", "writer", "Content-Length: 5\r\n");
        client.send(b"after");
        assert_eq!(client.answer(), taken(b"after"));
    }

    #[test]
    fn a_stall_ends_an_upload_and_a_slow_client_goes_through() {
        let server = Server::with(SECOND);
        let mut stalls = server.client();
        stalls.begin("/small", "writer", "Content-Length: 500000\r\n");
        stalls.send(body(200_000));
        let mut trickles = server.client();
        let body = body(30 * 10_000);
        trickles.begin("/small", "writer", "Content-Length: 300000\r\n");
        let began = Instant::now();
        for piece in body.chunks(10_000) {
            trickles.send(piece);
            thread::sleep(SECOND / 10);
        }
        assert!(began.elapsed() > SECOND * 3, "longer than the deadline of a request");
        assert_eq!(trickles.answer(), taken(&body));
        let (status, _, ends) = stalls.answer();
        assert_eq!((status, ends), (408, true));
        server.waits_for_files(0);
        assert_eq!(server.metric("cloacina_http_rejected_total{reason=\"too_slow\"}"), "1");
    }

    #[test]
    fn an_upload_under_way_is_finished_in_a_drain() {
        let server = Server::start();
        let mut client = server.client();
        client.begin("/small", "writer", "Content-Length: 100000\r\n");
        let body = body(100_000);
        client.send(&body[..40_000]);
        server.waits_for_files(1);
        server.drain();
        thread::sleep(SECOND);
        client.send(&body[40_000..]);
        assert_eq!(client.answer(), (200, taken(&body).1, true));
    }

    #[test]
    fn a_body_of_200_mib_takes_no_memory() {
        if runs_alone("a_body_of_200_mib_takes_no_memory", "") {
            return;
        }
        let server = Server::start();
        let mut client = server.client();
        let piece = body(MIB);
        client.begin("/large", "writer", "Content-Length: 1048576\r\n");
        client.send(&piece);
        assert_eq!(client.answer(), taken(&piece));
        let most_kib = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
        };
        let before = most_kib();
        for fields in ["Content-Length: 209715200\r\n", "Transfer-Encoding: chunked\r\n"] {
            let began = Instant::now();
            let is_chunked = fields.starts_with('T');
            client.begin("/large", "writer", fields);
            let mut hasher = crc32fast::Hasher::new();
            for _ in 0..200 {
                hasher.update(&piece);
                if is_chunked {
                    client.send(b"100000\r\n");
                }
                client.send(&piece);
                if is_chunked {
                    client.send(b"\r\n");
                }
            }
            if is_chunked {
                client.send(b"0\r\n\r\n");
            }
            assert_eq!(client.answer().1, format!("209715200 {:08x}", hasher.finalize()));
            println!("{} {:?}, {} KiB of growth", fields.trim(), began.elapsed(), most_kib() - before);
        }
        let growth = most_kib() - before;
        assert!(growth < 16 * 1024, "{growth} KiB");
    }

    #[test]
    fn a_full_disk_is_507_and_the_server_goes_on() {
        // No file of this process may be larger than 512 KiB.
        if runs_alone("a_full_disk_is_507_and_the_server_goes_on", "trap '' XFSZ; ulimit -f 1024;") {
            return;
        }
        let server = Server::start();
        for _ in 0..2 * MOST_UPLOADS {
            let mut client = server.client();
            client.begin("/small", "writer", "Content-Length: 1000000\r\n");
            client.send(body(600_000));
            assert_eq!(client.answer(), (507, "{\"error\":\"storage is full\"}".to_owned(), true));
            server.waits_for_files(0);
        }
        let mut client = server.client();
        client.begin("/small", "writer", "Content-Length: 500000\r\n");
        client.send(body(500_000));
        assert_eq!(client.answer(), taken(&body(500_000)));
    }

    #[test]
    fn a_directory_that_is_gone_is_500() {
        let server = Server::start();
        fs::remove_dir(&server.directory).unwrap();
        let mut client = server.client();
        client.begin("/small", "writer", "Content-Length: 5\r\nExpect: 100-continue\r\n");
        assert_eq!(client.answer(), (500, "{\"error\":\"internal error\"}".to_owned(), true));
        fs::create_dir(&server.directory).unwrap();
    }

    #[test]
    fn uploads_beside_a_thousand_connections() {
        if runs_alone("uploads_beside_a_thousand_connections", "ulimit -n 4096;") {
            return;
        }
        let server = Server::with(SECOND * 30);
        let mut others: Vec<_> = (0..1000).map(|_| server.client()).collect();
        let mut waits = BTreeMap::new();
        let body = body(MIB);
        let mut uploads: Vec<_> = (0..MOST_UPLOADS).map(|_| server.client()).collect();
        for (number, client) in uploads.iter_mut().enumerate() {
            client.begin(&own_path(number), "writer", &format!("Content-Length: {MIB}\r\n"));
        }
        for (at, other) in others.iter_mut().enumerate() {
            let part = MIB / 1000;
            for client in &mut uploads {
                client.send(&body[at * part..(at + 1) * part]);
            }
            let began = Instant::now();
            other.send(b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(other.answer().0, 204);
            *waits.entry(began.elapsed().as_micros() / 100).or_insert(0) += 1;
        }
        for client in &mut uploads {
            client.send(&body[MIB / 1000 * 1000..]);
            assert_eq!(client.answer(), taken(&body));
        }
        println!("waits in tenths of a millisecond, and how many: {waits:?}");
    }
}
