//! The room on a terminal: one line for what the server does, one for each client as far as there is room.

use std::io::IsTerminal;

use console::Term;
use frisbee_cli::progress::Events;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::room::Room;

/// Lines kept free: the server's own, and what was there before.
const OTHER_LINES: usize = 3;

/// Lines that are redrawn in place.
pub(crate) struct Screen {
    all: MultiProgress,
    server: ProgressBar,
    clients: Vec<ProgressBar>,
    term: Option<Term>,
}

impl Screen {
    /// Draws only where somebody looks: on a terminal, without JSON events.
    pub(crate) fn new(events: Events) -> Self {
        let shown = events == Events::Off && std::io::stderr().is_terminal();
        let target = if shown {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let all = MultiProgress::with_draw_target(target);
        let server = all.add(ProgressBar::no_length());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            server.set_style(style);
        }
        Self {
            all,
            server,
            clients: Vec::new(),
            term: shown.then(Term::stderr),
        }
    }

    /// Draws the present state.
    pub(crate) fn show(&mut self, server: String, room: &Room) {
        let Some(term) = &self.term else {
            return;
        };
        let (height, _) = term.size();
        let lines = room.lines(usize::from(height).saturating_sub(OTHER_LINES));
        self.server.set_message(server);
        self.server.tick();
        for gone in self.clients.drain(lines.len().min(self.clients.len())..) {
            gone.finish_and_clear();
            self.all.remove(&gone);
        }
        while self.clients.len() < lines.len() {
            let line = self.all.add(ProgressBar::no_length());
            if let Ok(style) = ProgressStyle::with_template("  {wide_msg}") {
                line.set_style(style);
            }
            self.clients.push(line);
        }
        for (line, text) in self.clients.iter().zip(lines) {
            line.set_message(text);
            line.tick();
        }
    }

    /// Prints something above the lines.
    pub(crate) fn suspend(&self, print: impl FnOnce()) {
        self.all.suspend(print);
    }

    /// Takes all lines away.
    pub(crate) fn clear(&self) {
        for line in self.clients.iter().chain([&self.server]) {
            line.finish_and_clear();
        }
    }
}
