//! Finding the first of many routes whose path matches, without looking at the others.
//!
//! Conditions on anything but the path are looked at only for routes whose path may match. Of these there are few
//! unless a configuration has many routes for the same path, and then each may have to be asked.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use regex::bytes::RegexSet;

use super::{
    Route,
    matcher::{Asked, PathMatch, RouteMatch},
    prefixes::Prefixes,
};
/// Up to so many routes a look at each is cheaper than any table.
const FEW: usize = 8;

/// Routes by their paths. The numbers are positions in the list of routes, which decide: lists of them are in order.
#[derive(Debug, Default)]
pub(super) struct PathIndex {
    exactly: Option<Spelling>,
    /// By paths in lower case.
    ignoring_case: Option<Spelling>,
    expressions: Option<Expressions>,
}

/// Routes whose paths are compared in the same way.
#[derive(Debug)]
struct Spelling {
    whole: HashMap<Vec<u8>, Vec<usize>>,
    prefixes: Prefixes<Vec<usize>>,
}

/// Routes whose paths are matched by expressions.
#[derive(Debug)]
struct Expressions {
    routes: Vec<usize>,
    /// All expressions as one, in the order of `routes`; `None` if that would be too large, or there is only one.
    set: Option<RegexSet>,
}

/// While routes are sorted into an index.
#[derive(Default)]
struct Builder {
    whole: HashMap<Vec<u8>, Vec<usize>>,
    prefixes: BTreeMap<Vec<u8>, Vec<usize>>,
}

/// A search for the first route that matches.
struct Search<'s> {
    routes: &'s [Arc<Route>],
    asked: &'s Asked<'s>,
    best: Option<usize>,
}

// === impl PathIndex ===

impl PathIndex {
    /// An index of routes; `None` if it would not pay.
    pub(super) fn new(routes: &[Arc<Route>]) -> Option<Self> {
        (routes.len() > FEW).then(|| Self::of(routes.iter().map(|route| &route.matches)))
    }

    fn of<'m>(matches: impl Iterator<Item = &'m RouteMatch>) -> Self {
        // By whether case is ignored.
        let mut builders = [Builder::default(), Builder::default()];
        let (mut expressions, mut patterns) = (Vec::new(), Vec::new());
        for (number, matches) in matches.enumerate() {
            match &matches.path {
                PathMatch::Exact { text, ignore_case } => {
                    let text = spelled(text, *ignore_case);
                    builders[usize::from(*ignore_case)].whole.entry(text).or_default().push(number);
                }
                PathMatch::Prefix { text, ignore_case }
                | PathMatch::SeparatedPrefix { text, ignore_case } => {
                    let text = spelled(text, *ignore_case);
                    builders[usize::from(*ignore_case)].prefixes.entry(text).or_default().push(number);
                }
                // It has no path, so that it is asked for whatever the path is.
                PathMatch::Connect => builders[0].prefixes.entry(Vec::new()).or_default().push(number),
                PathMatch::Regex(regex) => {
                    expressions.push(number);
                    patterns.push(regex.as_str());
                }
            }
        }
        let [exactly, ignoring_case] = builders;
        Self {
            exactly: exactly.build(),
            ignoring_case: ignoring_case.build(),
            expressions: (!expressions.is_empty()).then(|| Expressions {
                set: (patterns.len() > 1).then(|| RegexSet::new(&patterns).ok()).flatten(),
                routes: expressions,
            }),
        }
    }

    /// The first of `routes`, of which this is the index, that matches.
    pub(super) fn find<'r>(&self, routes: &'r [Arc<Route>], asked: &Asked<'_>) -> Option<&'r Arc<Route>> {
        let mut search = Search { routes, asked, best: None };
        let path = asked.path();
        if let Some(spelling) = &self.exactly {
            search.among(spelling, path);
        }
        if let Some(spelling) = &self.ignoring_case {
            search.among(spelling, &path.to_ascii_lowercase());
        }
        if let Some(expressions) = &self.expressions {
            match &expressions.set {
                None => search.look(expressions.routes.iter().copied()),
                Some(set) => {
                    search.look(set.matches(path).into_iter().map(|index| expressions.routes[index]));
                }
            }
        }
        search.best.map(|number| &routes[number])
    }
}

fn spelled(text: &[u8], ignore_case: bool) -> Vec<u8> {
    if ignore_case { text.to_ascii_lowercase() } else { text.to_vec() }
}

// === impl Builder ===

impl Builder {
    fn build(self) -> Option<Spelling> {
        let spelling = Spelling { whole: self.whole, prefixes: Prefixes::new(self.prefixes) };
        (!spelling.whole.is_empty() || !spelling.prefixes.is_empty()).then_some(spelling)
    }
}

// === impl Search ===

impl Search<'_> {
    fn among(&mut self, spelling: &Spelling, path: &[u8]) {
        self.look(spelling.whole.get(path).into_iter().flatten().copied());
        for (_, numbers) in spelling.prefixes.of(path) {
            self.look(numbers.iter().copied());
        }
    }

    /// Looks at some routes, in order, as long as they come before the best that was found.
    fn look(&mut self, numbers: impl Iterator<Item = usize>) {
        let best = self.best.unwrap_or(usize::MAX);
        let mut numbers = numbers.take_while(|number| *number < best);
        if let Some(first) = numbers.find(|number| self.routes[*number].matches.matches(self.asked)) {
            self.best = Some(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::route::{
        Action,
        matcher::{HeaderCondition, HeaderMatch},
        mutate::Mutations,
    };
    use crate::{balance::Random, http::head::Head, runtime::Runtime};

    fn route(number: usize, path: PathMatch, needs_field: bool) -> Arc<Route> {
        let field = HeaderMatch {
            name: b"x-kind".to_vec(),
            condition: HeaderCondition::Present(true),
            invert: false,
            missing_is_empty: false,
        };
        Arc::new(Route {
            name: number.to_string().into(),
            matches: RouteMatch {
                path,
                headers: if needs_field { vec![field] } else { Vec::new() },
                cookies: Vec::new(),
                query: Vec::new(),
                grpc: false,
                certificate: None,
                fraction: None,
            },
            action: Action::Direct { status: 200, body: Vec::new() },
            request: Mutations::default(),
            response: Mutations::default(),
            overrides: Default::default(),
            rate_limits: Default::default(),
        })
    }

    /// Few letters in short texts, so that they often begin with each other.
    fn path() -> impl Strategy<Value = String> {
        "/[abA/]{0,5}"
    }

    fn path_match() -> impl Strategy<Value = PathMatch> {
        (path(), any::<bool>(), 0..4).prop_map(|(text, ignore_case, kind)| {
            let bytes = text.clone().into_bytes();
            match kind {
                0 => PathMatch::Exact { text: bytes, ignore_case },
                1 => PathMatch::Prefix { text: bytes, ignore_case },
                2 => PathMatch::SeparatedPrefix { text: bytes, ignore_case },
                _ => PathMatch::Regex(
                    regex::bytes::Regex::new(&format!("^(?:{text}.*b)$")).expect("letters are an expression"),
                ),
            }
        })
    }

    proptest! {
        #[test]
        fn the_route_is_the_one_that_a_look_at_each_in_order_finds(
            matches in vec((path_match(), any::<bool>()), 0..40),
            path in path(),
            has_field in any::<bool>(),
        ) {
            let routes: Vec<_> = matches
                .into_iter()
                .enumerate()
                .map(|(number, (path, needs_field))| route(number, path, needs_field))
                .collect();
            let mut head = Head::default();
            head.reset(b"");
            let target = head.intern(format!("{path}?q=/a").as_bytes());
            head.set_target(target);
            if has_field {
                head.append(b"x-kind", b"1");
            }
            let asked = Asked { head: &head, certificate: false, random: &Random::new(1), runtime: &Runtime::default(), parameters: true };
            let expected = routes.iter().find(|route| route.matches.matches(&asked));
            let index = PathIndex::of(routes.iter().map(|route| &route.matches));
            let found = index.find(&routes, &asked);
            prop_assert_eq!(found.map(|route| &route.name), expected.map(|route| &route.name));
        }
    }
}
