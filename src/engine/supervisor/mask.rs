//! Secrets in what a task prints become `***`, however the reads cut it (Aho and Corasick's automaton: each byte is
//! looked at once, whatever secrets and text are).

/// Shorter ones would hide half of a log.
const LEAST_BYTES: usize = 8;

const MASK: &[u8] = b"***";

/// A state of the automaton: the longest end of the text that begins a secret.
#[derive(Debug, Clone, Default)]
struct Node {
    byte: u8,
    first_child: u32,
    next_sibling: u32,
    /// Where to go on when no child fits: the next shorter end that begins a secret.
    shorter: u32,
    depth: u32,
    /// The length of the longest secret that ends here, or 0.
    secret_bytes: u32,
}

/// Replaces every run of bytes that belong to some secret. Holds back no more than what may still become one.
#[derive(Debug)]
pub struct Mask {
    nodes: Vec<Node>,
    from_root: [u32; 256],
    state: u32,
    /// What may be the beginning of a secret.
    held: Vec<u8>,
    /// Of `held`: bytes of secrets that overlap those which may follow.
    runs: Vec<(usize, usize)>,
    /// Whether the last byte that went out stood for a secret.
    is_in_run: bool,
}

impl Mask {
    /// None if there is nothing to mask.
    pub fn new<'a>(secrets: impl Iterator<Item = &'a str>) -> Option<Mask> {
        let mut mask = Mask {
            nodes: vec![Node::default()],
            from_root: [0; 256],
            state: 0,
            held: Vec::new(),
            runs: Vec::new(),
            is_in_run: false,
        };
        for secret in secrets.filter(|secret| secret.len() >= LEAST_BYTES) {
            mask.add(secret.as_bytes());
        }
        mask.link();
        (mask.nodes.len() > 1).then_some(mask)
    }

    /// Puts into `out` what of it all can be told by now.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for byte in bytes {
            if self.state == 0 && self.from_root[usize::from(*byte)] == 0 && self.held.is_empty() {
                self.is_in_run = false;
                out.push(*byte);
                continue;
            }
            self.held.push(*byte);
            self.state = self.next(self.state, *byte);
            let Node { depth, secret_bytes, .. } = self.nodes[self.state as usize];
            if secret_bytes > 0 {
                self.cover(self.held.len() - secret_bytes as usize);
            }
            let told = self.held.len() - depth as usize;
            // Moving the rest to the front costs as much as it is long.
            if depth == 0 || told >= self.held.len() / 2 {
                self.release(told, out);
            }
        }
        self.release(self.held.len() - self.nodes[self.state as usize].depth as usize, out);
    }

    /// The rest, once nothing follows.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.release(self.held.len(), out);
        self.state = 0;
    }

    fn add(&mut self, secret: &[u8]) {
        let mut at = 0;
        for byte in secret {
            at = match self.child(at, *byte) {
                0 => self.add_child(at, *byte),
                child => child,
            };
        }
        self.nodes[at as usize].secret_bytes = self.nodes[at as usize].depth;
    }

    fn add_child(&mut self, parent: u32, byte: u8) -> u32 {
        // Secrets are bounded far below 4 GiB.
        let new = u32::try_from(self.nodes.len()).unwrap_or(0);
        let Node { depth, first_child, .. } = self.nodes[parent as usize];
        self.nodes.push(Node { byte, next_sibling: first_child, depth: depth + 1, ..Node::default() });
        self.nodes[parent as usize].first_child = new;
        if parent == 0 {
            self.from_root[usize::from(byte)] = new;
        }
        new
    }

    /// Sets `shorter`, level by level, and lets a state know of the secrets that end in it.
    fn link(&mut self) {
        let mut queue = std::collections::VecDeque::from([0]);
        while let Some(parent) = queue.pop_front() {
            let mut child = self.nodes[parent as usize].first_child;
            while child != 0 {
                let Node { byte, next_sibling, .. } = self.nodes[child as usize];
                let shorter =
                    if parent == 0 { 0 } else { self.next(self.nodes[parent as usize].shorter, byte) };
                let ends = self.nodes[shorter as usize].secret_bytes;
                let node = &mut self.nodes[child as usize];
                node.shorter = shorter;
                node.secret_bytes = node.secret_bytes.max(ends);
                queue.push_back(child);
                child = next_sibling;
            }
        }
    }

    fn child(&self, parent: u32, byte: u8) -> u32 {
        if parent == 0 {
            return self.from_root[usize::from(byte)];
        }
        let mut child = self.nodes[parent as usize].first_child;
        while child != 0 && self.nodes[child as usize].byte != byte {
            child = self.nodes[child as usize].next_sibling;
        }
        child
    }

    fn next(&self, mut state: u32, byte: u8) -> u32 {
        loop {
            let child = self.child(state, byte);
            if child != 0 || state == 0 {
                return child;
            }
            state = self.nodes[state as usize].shorter;
        }
    }

    /// Everything held from here on belongs to secrets.
    fn cover(&mut self, mut from: usize) {
        while let Some((start, _)) = self.runs.pop_if(|(_, end)| *end >= from) {
            from = from.min(start);
        }
        self.runs.push((from, self.held.len()));
    }

    /// Lets the first bytes of `held` go.
    fn release(&mut self, count: usize, out: &mut Vec<u8>) {
        let mut at = 0;
        for (start, end) in &self.runs {
            let (start, end) = ((*start).min(count), (*end).min(count));
            if start > at {
                out.extend_from_slice(&self.held[at..start]);
                self.is_in_run = false;
            }
            if end > start && !self.is_in_run {
                out.extend_from_slice(MASK);
                self.is_in_run = true;
            }
            at = end;
        }
        if count > at {
            out.extend_from_slice(&self.held[at..count]);
            self.is_in_run = false;
        }
        self.held.drain(..count);
        self.runs.retain_mut(|(start, end)| {
            (*start, *end) = (start.saturating_sub(count), end.saturating_sub(count));
            *end > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator that gives the same in every run.
    fn random(state: &mut u64, below: usize) -> usize {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as usize % below
    }

    /// What each byte belongs to, found by looking everywhere.
    fn obvious(secrets: &[String], text: &[u8]) -> Vec<u8> {
        let mut is_secret = vec![false; text.len()];
        for secret in secrets.iter().filter(|secret| secret.len() >= 8) {
            for at in 0..text.len() {
                if text[at..].starts_with(secret.as_bytes()) {
                    is_secret[at..at + secret.len()].fill(true);
                }
            }
        }
        let mut masked = Vec::new();
        for at in 0..text.len() {
            if !is_secret[at] {
                masked.push(text[at]);
            } else if at == 0 || !is_secret[at - 1] {
                masked.extend_from_slice(b"***");
            }
        }
        masked
    }

    #[test]
    fn secrets_are_masked_however_the_text_is_cut() {
        let mut state = 1;
        for round in 0..2_000 {
            let letters = 1 + random(&mut state, 3);
            let mut word = |most: usize| {
                let length = random(&mut state, most);
                (0..length).map(|_| char::from(b'a' + random(&mut state, letters) as u8)).collect::<String>()
            };
            let secrets: Vec<_> = (0..4).map(|_| word(20)).collect();
            let mut text = word(60);
            for secret in &secrets {
                text += secret;
                text += &word(10);
            }
            let expected = obvious(&secrets, text.as_bytes());
            let mut out = Vec::new();
            match Mask::new(secrets.iter().map(String::as_str)) {
                None => out.extend_from_slice(text.as_bytes()),
                Some(mut mask) => {
                    let mut rest = text.as_bytes();
                    while !rest.is_empty() {
                        let (piece, after) = rest.split_at(1 + random(&mut state, rest.len()));
                        mask.push(piece, &mut out);
                        rest = after;
                    }
                    mask.finish(&mut out);
                }
            }
            let shown = String::from_utf8_lossy(&out);
            assert_eq!(out, expected, "round {round}: {secrets:?} in {text:?} gave {shown:?}");
        }
    }

    #[test]
    fn only_what_may_become_a_secret_is_held_back() {
        let mut mask = Mask::new(["password-1"].into_iter()).unwrap();
        let mut out = Vec::new();
        mask.push(b"the pass", &mut out);
        assert_eq!(out, b"the ");
        mask.push(b"port\npassword-", &mut out);
        assert_eq!(out, b"the passport\n");
        mask.push(b"1", &mut out);
        mask.push(b"!", &mut out);
        assert_eq!(out, b"the passport\n***!");
    }
}
