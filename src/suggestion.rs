//! What was probably meant by a word that is mistyped.

/// Bytes of a word that tell one that begins so.
const LEAST_START: usize = 3;

/// ` (did you mean …?)` with the known word that is nearest to `word`; empty where none is near.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    // Longer than any known word, and its distance would take long to compute.
    if word.len() > 40 {
        return String::new();
    }
    let known: Vec<&str> = known.into_iter().collect();
    let near = known.iter().map(|known| (distance(word, known), *known));
    let nearest = near.filter(|(distance, known)| *distance <= known.len().div_ceil(4).min(3)).min();
    // A word that was cut short, such as `desc`.
    let longer = || {
        let mut begin_so = known.iter().filter(|known| word.len() >= LEAST_START && known.starts_with(word));
        begin_so.next().filter(|_| begin_so.next().is_none()).map(|known| (0, *known))
    };
    nearest.or_else(longer).map_or(String::new(), |(_, known)| format!(" (did you mean `{known}`?)"))
}

/// How many characters are to be inserted, left out, replaced, or swapped with their neighbour to make one of the other.
pub fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = vec![vec![0; other.len() + 1]; one.len() + 1];
    for i in 0..=one.len() {
        for j in 0..=other.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
                let swaps = i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1];
                let swapped = if swaps { rows[i - 2][j - 2] + 1 } else { replaced };
                replaced.min(swapped).min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1)
            };
        }
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (one, other, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("serve", "serve", 0),
            ("srve", "serve", 1),
            ("sreve", "serve", 1),
            ("sevres", "serve", 2),
            ("é", "e", 1),
            ("list", "revoke", 6),
        ] {
            assert_eq!((distance(one, other), distance(other, one)), (expected, expected), "{one} {other}");
        }
    }

    #[test]
    fn only_what_is_near_is_suggested() {
        let known = ["serve", "config", "keys", "--database-url", "--database-url-file"];
        for (word, meant) in [
            ("srve", "serve"),
            ("kesy", "keys"),
            ("conf", "config"),
            ("--databse-url", "--database-url"),
            ("--database-url-flie", "--database-url-file"),
        ] {
            assert_eq!(did_you_mean(word, known), format!(" (did you mean `{meant}`?)"), "{word}");
        }
        for word in ["", "x", "co", "--d", "--data", "start", "--verbose", &"serve".repeat(100)] {
            assert_eq!(did_you_mean(word, known), "", "{word}");
        }
    }
}
