//! As much of Markdown as is needed to check our own pages: headings as GitHub names them, links,
//! code spans. Not a parser for anybody else's.

use std::collections::BTreeMap;

/// A page, with its code blocks apart.
pub struct Page {
    /// The text without code blocks.
    prose: String,
    /// The text of the code blocks.
    blocks: String,
}

impl Page {
    pub fn read(text: &str) -> Self {
        let mut page = Self { prose: String::new(), blocks: String::new() };
        let mut in_block = false;
        for line in text.lines() {
            let fence = line.trim_start().starts_with("```");
            in_block ^= fence;
            // A block parts the paragraphs around it.
            let (to, line) = match (fence, in_block) {
                (true, _) => (&mut page.prose, ""),
                (false, true) => (&mut page.blocks, line),
                (false, false) => (&mut page.prose, line),
            };
            to.push_str(line);
            to.push('\n');
        }
        page
    }

    pub fn blocks(&self) -> &str {
        &self.blocks
    }

    /// The names that a link can lead to, as GitHub makes them from the headings.
    pub fn anchors(&self) -> Vec<String> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        self.prose
            .lines()
            .filter_map(|line| {
                let text = line.trim_start_matches('#');
                let level = line.len() - text.len();
                let title = text.strip_prefix(' ').filter(|_| (1..=6).contains(&level))?;
                let slug = slug(title);
                let times = seen.entry(slug.clone()).or_default();
                *times += 1;
                Some(if *times == 1 { slug } else { format!("{slug}-{}", *times - 1) })
            })
            .collect()
    }

    /// Where the links and pictures lead, as written.
    pub fn links(&self) -> Vec<String> {
        let mut found = Vec::new();
        for paragraph in self.paragraphs() {
            let (text, _) = parted(paragraph);
            for (before, after) in
                [("](", ')'), ("src=\"", '"'), ("srcset=\"", '"'), ("href=\"", '"')]
            {
                let ends = text.split(before).skip(1).filter_map(|rest| rest.split_once(after));
                found.extend(ends.map(|(target, _)| target.trim().to_owned()));
            }
            let defined = text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: "));
            found.extend(defined.map(|(_, target)| target.trim().to_owned()));
        }
        found
    }

    pub fn paragraphs(&self) -> impl Iterator<Item = &str> {
        self.prose.split("\n\n")
    }

    /// What is written in code style.
    pub fn spans(&self) -> Vec<String> {
        self.paragraphs().flat_map(spans).collect()
    }
}

/// What a paragraph has in code style, each on one line.
pub fn spans(paragraph: &str) -> Vec<String> {
    parted(paragraph).1
}

/// A paragraph without its code spans, and those.
fn parted(paragraph: &str) -> (String, Vec<String>) {
    let (mut text, mut code) = (String::new(), Vec::new());
    for (nth, part) in paragraph.split('`').enumerate() {
        if nth % 2 == 0 {
            text.push_str(part);
        } else {
            code.push(part.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    (text, code)
}

fn slug(title: &str) -> String {
    // Of a link only its text.
    let mut text = String::new();
    for (nth, part) in title.split("](").enumerate() {
        let shown = if nth == 0 { part } else { part.split_once(')').map_or("", |(_, rest)| rest) };
        text.push_str(shown);
    }
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    text.trim()
        .to_lowercase()
        .chars()
        .filter(kept)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# A page: `code`, and [a link](x.md)

See [the rules](DESIGN.md#2-promises), ![a picture](a.svg), `[no](link)` and
[more][m] <img src=\"b.png\">.

[m]: more.md

## Twice
## Twice

```sh
[not](this) # nor
## this
```

####### Seven
";

    #[test]
    fn headings_are_named_as_on_github() {
        let expected = ["a-page-code-and-a-link", "twice", "twice-1"];
        assert_eq!(Page::read(PAGE).anchors(), expected);
        assert_eq!(
            slug("10. `paths[].health`, S1-S10: What's this?"),
            "10-pathshealth-s1-s10-whats-this"
        );
    }

    #[test]
    fn links_are_found_outside_of_code_only() {
        let expected = ["x.md", "DESIGN.md#2-promises", "a.svg", "b.png", "more.md"];
        assert_eq!(Page::read(PAGE).links(), expected);
    }

    #[test]
    fn code_is_found_in_spans_and_blocks() {
        let page = Page::read(PAGE);
        assert_eq!(page.spans(), ["code", "[no](link)"]);
        assert!(page.blocks().contains("[not](this)") && !page.blocks().contains("Seven"));
    }
}
