//! "Did you mean": the known word nearest to an unknown one.

/// The known word that was probably meant, if one is near.
pub(super) fn nearest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    const FAR: usize = 3;
    const LONGEST_WORD: usize = 40;
    if word.len() > LONGEST_WORD {
        return None;
    }
    let word = word.to_ascii_lowercase();
    let near = |name: &&'static str| (edits(&word, &name.to_ascii_lowercase()), *name);
    known
        .iter()
        .map(near)
        .min()
        .filter(|(edits, name)| *edits < FAR.min(name.len()))
        .map(|(_, name)| name)
}

/// Levenshtein's distance.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}
