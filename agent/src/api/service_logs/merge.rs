//! Several streams of lines, each in order of time, as one in order of time.

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, future};

use super::line::Line;

type Heads = Vec<(Line, BoxStream<'static, Line>)>;

/// Merges by time. The first line waits until every stream has one, or has ended.
pub(super) fn in_order(parts: Vec<BoxStream<'static, Line>>) -> impl Stream<Item = Line> + use<> {
    stream::once(async move {
        let begun = future::join_all(parts.into_iter().map(begin)).await;
        stream::unfold(begun.into_iter().flatten().collect(), earliest)
    })
    .flatten()
}

async fn begin(mut part: BoxStream<'static, Line>) -> Option<(Line, BoxStream<'static, Line>)> {
    Some((part.next().await?, part))
}

async fn earliest(mut heads: Heads) -> Option<(Line, Heads)> {
    let (index, _) = heads
        .iter()
        .enumerate()
        .min_by_key(|(_, (line, _))| line.entry.time)?;
    let line = match heads[index].1.next().await {
        Some(next) => std::mem::replace(&mut heads[index].0, next),
        None => heads.swap_remove(index).0,
    };
    Some((line, heads))
}

#[cfg(test)]
mod tests {
    use super::super::line::tests::line;
    use super::*;

    #[tokio::test]
    async fn lines_are_merged_by_time() {
        let parts = vec![
            stream::iter([line("a", 1, "1"), line("a", 4, "4")]).boxed(),
            stream::iter([]).boxed(),
            stream::iter([line("b", 2, "2"), line("b", 3, "3")]).boxed(),
        ];
        let merged: Vec<Line> = in_order(parts).collect().await;
        let text: Vec<_> = merged.iter().map(|line| line.entry.line.clone()).collect();
        assert_eq!(text, ["1", "2", "3", "4"]);
    }
}
