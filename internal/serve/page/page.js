// Keeps the page up to date. Whatever comes is put in as text, never as markup.
"use strict";

const at = (id) => document.getElementById(id);

function put(id, text) {
	const e = at(id);
	if (e.textContent !== text) e.textContent = text;
}

// make returns an element with a class, and with what is in it: elements or text.
function make(name, className, ...inside) {
	const e = document.createElement(name);
	if (className) e.className = className;
	e.append(...inside);
	return e;
}

function meter(max, value) {
	const e = document.createElement("meter");
	e.max = max;
	e.value = value;
	return e;
}

function showTable(t) {
	put("table-words", t.words);
	put("table-forecast", t.forecast);
	put("table-range", t.range);
	at("table-forecast").className = t.alarm ? "alarm" : "";
	at("table-meter").max = Math.max(t.max, 1);
	at("table-meter").value = t.count;
	at("table-line").setAttribute("points", t.points);
}

function showTop(t) {
	put("top-words", t.words);
	at("top").replaceChildren(...t.groups.map((g) => make("div", "",
		make("h3", "", "by " + g.by),
		make("ol", "", ...(g.rows.length ? g.rows.map((r) => make("li", "",
			make("span", "name", r.name), " ", make("span", "count", r.words), meter(r.of, r.flows),
		)) : [make("li", "quiet", "none")])),
	)));
}

function receipt(r) {
	const when = make("time", "", new Date(r.time).toLocaleString());
	when.dateTime = r.time;
	return make("article", "",
		make("h3", r.proven ? "proven" : "unproven", r.verdict),
		make("p", "", make("code", "", r.selector)),
		make("pre", "", r.rows),
		make("p", "quiet", when, " by " + r.by),
	);
}

function showReceipts(list) {
	at("receipts").replaceChildren(...(list.length ? list.map(receipt) : [make("p", "quiet", "No cut since this server began.")]));
}

function listen() {
	const stream = new EventSource("/events"); // which connects again by itself
	const on = (name, show) => stream.addEventListener(name, (e) => show(JSON.parse(e.data)));
	on("table", showTable);
	on("top", showTop);
	on("receipts", showReceipts);
	stream.onopen = () => put("live", "live");
	stream.onerror = () => {
		put("live", "not connected: what is shown is old");
		if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 5000); // refused, as when too many look
	};
}

let plan = ""; // the dry run that is shown

async function ask(path, what) {
	const answer = await fetch(path, {
		method: "POST", cache: "no-store", credentials: "omit", redirect: "error",
		headers: { "Authorization": "Bearer " + at("token").value, "Content-Type": "application/json" },
		body: JSON.stringify(what),
	});
	const value = await answer.json();
	if (!answer.ok) throw new Error(value.error + (value.hint ? ": " + value.hint : ""));
	return value;
}

// during does what takes time, with all buttons off.
async function during(words, work) {
	const buttons = document.querySelectorAll("button");
	buttons.forEach((b) => { b.disabled = true; });
	put("cut-says", words);
	try {
		put("cut-says", await work());
	} catch (e) {
		put("cut-says", e.message);
	}
	buttons.forEach((b) => { b.disabled = false; });
}

function hidePlan() {
	plan = "";
	at("plan").hidden = true;
}

async function dryRun() {
	hidePlan();
	const p = await ask("/cut/plan", { selection: at("selection").value });
	plan = p.plan;
	put("plan-selector", p.selector);
	at("plan-words").replaceChildren(...p.words.map((w) => make("li", "", w)));
	put("plan-flows", p.flows.length ? p.header + p.flows.join("\n") : "none");
	put("plan-rules", p.rules);
	put("cut-now", "Cut " + (p.matched === 1 ? "1 flow" : p.matched + " flows"));
	at("plan").hidden = false;
	at("plan-title").focus();
	return "";
}

async function cutNow() {
	const made = plan;
	hidePlan();
	const done = await ask("/cut", { plan: made });
	return done.receipt.verdict + (done.error ? "; " + done.error : "");
}

function prepareCut() {
	const form = at("cut");
	if (!form) return;
	form.hidden = false;
	form.addEventListener("submit", (e) => {
		e.preventDefault();
		during("looking at the table", dryRun);
	});
	form.addEventListener("input", hidePlan);
	at("cut-now").addEventListener("click", () => during("cutting", cutNow));
	at("cut-not").addEventListener("click", () => { hidePlan(); put("cut-says", ""); });
}

prepareCut();
listen();
