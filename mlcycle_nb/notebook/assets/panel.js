// The live face of every panel: holds a copy of its state, takes in changes, and redraws only what moved.
// The other half is live_view.py; the forms of changes are those of increments.py.

const stores = new Map(); // by the panel's key: several views may show one model
const SILENT_MS = 15000;
let library = null; // Vega, loaded once a page

// -- state -----------------------------------------------------------------------------------------------------

function applyRows(rows, change) {
  let result = rows;
  if (change.keep !== undefined) {
    const bits = atob(change.keep);
    result = rows.filter((_, place) => (bits.charCodeAt(place >> 3) >> (place & 7)) & 1);
  } else {
    result = rows.slice();
  }
  for (const [first, count] of (change.drop ?? []).slice().reverse()) result.splice(first, count);
  for (const [place, added] of change.add ?? []) result.splice(place, 0, ...added);
  return result;
}

function applyHtml(html, change) {
  const tokens = html.match(/<[^>]*>|[^<]+/g) ?? [];
  for (const [first, count, text] of change.slice().reverse()) tokens.splice(first, count, text);
  return tokens.join("");
}

function applyChange(state, change) {
  for (const name of ["before", "after"]) if (change[name]) state[name] = applyHtml(state[name], change[name]);
  for (const name of ["buttons", "message", "label", "over"]) if (change[name] !== undefined) state[name] = change[name];
  if (change.charts) state.charts = change.charts;
  for (const [place, sets] of change.data ?? []) {
    const chart = state.charts[place];
    for (const [name, set] of Object.entries(sets)) {
      if (set.fields) chart.data[name] = set;
      else chart.data[name] = { fields: chart.data[name].fields, rows: applyRows(chart.data[name].rows, set) };
    }
  }
}

function storeOf(model) {
  const key = model.get("key");
  if (!stores.has(key)) {
    const store = { state: structuredClone(model.get("state")), views: new Set(), heardAt: Date.now() };
    const took = (message) => {
      store.heardAt = Date.now();
      if (message.alive) return;
      if (message.full) store.state = message.full;
      else if (message.number === store.state.number + 1) {
        applyChange(store.state, message);
        store.state.number = message.number;
      } else if (message.number > store.state.number) {
        model.send({ ask: "full" }); // one was missed: while the page was away, say
        return;
      } else return;
      for (const view of store.views) view(message.full ? null : message);
    };
    model.on("msg:custom", took);
    stores.set(key, store);
  }
  return stores.get(key);
}

// -- drawing ---------------------------------------------------------------------------------------------------

function morph(from, to) {
  // Make `from` look like `to`, node by node: what did not change keeps its focus, its selection and its scrolling.
  const old = [...from.childNodes], wanted = [...to.childNodes];
  wanted.forEach((node, place) => {
    const present = old[place];
    if (!present) from.append(node);
    else if (present.nodeType !== node.nodeType || present.nodeName !== node.nodeName) present.replaceWith(node);
    else if (node.nodeType !== Node.ELEMENT_NODE) {
      if (present.nodeValue !== node.nodeValue) present.nodeValue = node.nodeValue;
    } else {
      for (const { name } of [...present.attributes])
        if (!node.hasAttribute(name) && name !== "open") present.removeAttribute(name);
      for (const { name, value } of [...node.attributes])
        if (present.getAttribute(name) !== value && name !== "open") present.setAttribute(name, value);
      const atEnd = present.dataset.follow !== undefined
        && present.scrollTop + present.clientHeight >= present.scrollHeight - 4;
      morph(present, node);
      if (atEnd) present.scrollTop = present.scrollHeight;
    }
  });
  old.slice(wanted.length).forEach((node) => node.remove());
}

function showHtml(element, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  morph(element, template.content);
  for (const log of element.querySelectorAll("[data-follow]:not([data-followed])")) {
    log.dataset.followed = "";
    log.scrollTop = log.scrollHeight;
  }
}

async function loadVega(model) {
  if (library === null) {
    library = (async () => {
      while (!model.get("library")) await new Promise((told) => model.on("change:library", told));
      const holder = await model.widget_manager.get_model(model.get("library"));
      const url = URL.createObjectURL(new Blob([holder.get("source")], { type: "text/javascript" }));
      try { return await import(/* webpackIgnore: true */ url); } finally { URL.revokeObjectURL(url); }
    })();
    library.catch(() => { library = null; });
  }
  return library;
}

const INHERIT = "currentColor"; // so that a chart follows the theme of the page
const THEMED = {
  background: null,
  axis: { labelColor: INHERIT, titleColor: INHERIT, tickColor: INHERIT, domainColor: INHERIT, gridColor: INHERIT,
          gridOpacity: 0.15, domainOpacity: 0.5, tickOpacity: 0.5 },
  legend: { labelColor: INHERIT, titleColor: INHERIT },
  title: { color: INHERIT, subtitleColor: INHERIT },
  text: { color: INHERIT },
};

function themed(spec) {
  const config = { ...(spec.config ?? {}) };
  for (const [name, own] of Object.entries(THEMED))
    config[name] = own !== null && typeof own === "object" ? { ...(config[name] ?? {}), ...own } : own;
  return { ...spec, background: null, config };
}

function rowsOf(set, parse = {}) {
  // Vega reads what a specification brings as its `parse` says, but takes later rows as they are.
  const read = { date: Date.parse, number: Number, boolean: Boolean, string: String };
  const readers = set.fields.map((field) => read[parse?.[field]] ?? ((value) => value));
  return set.rows.map((row) => Object.fromEntries(
    set.fields.map((field, place) => [field, row[place] === null ? null : readers[place](row[place])])));
}

class ChartView {
  constructor(model, parent) {
    this.model = model;
    this.figure = document.createElement("figure");
    this.figure.setAttribute("role", "figure");
    parent.append(this.figure);
    this.turn = Promise.resolve();
  }
  show(chart, renewed) {
    this.turn = this.turn.then(() => this.draw(chart, renewed)).catch((failure) => {
      this.figure.textContent = `This chart cannot be drawn: ${failure.message}`;
    });
  }
  async draw(chart, renewed) {
    const { vegaEmbed } = await loadVega(this.model);
    if (this.view && !renewed) {
      for (const [name, set] of Object.entries(chart.data)) {
        if (this.drawn[name] === set || !(name in this.formats)) continue;
        const rows = rowsOf(set, this.formats[name]);
        this.view.change(name, this.view.changeset().remove(() => true).insert(rows));
        this.drawn[name] = set;
      }
      await this.view.runAsync();
      return;
    }
    this.close();
    this.formats = {};
    this.drawn = { ...chart.data };
    const patch = (compiled) => {
      for (const source of compiled.data ?? []) {
        if (!(source.name in chart.data)) continue;
        this.formats[source.name] = source.format?.parse ?? {};
        source.values = rowsOf(chart.data[source.name]);
      }
      return compiled;
    };
    const title = chart.spec.title;
    this.figure.setAttribute("aria-label", (typeof title === "object" ? title?.text : title) ?? "chart");
    const target = document.createElement("div");
    const made = await vegaEmbed(target, themed(chart.spec), { renderer: "svg", actions: false, patch });
    this.figure.replaceChildren(target);
    [this.view, this.finalize] = [made.view, made.finalize];
  }
  close() {
    this.finalize?.();
    this.view = this.finalize = null;
  }
  remove() {
    this.turn = this.turn.then(() => this.close());
    this.figure.remove();
  }
}

class PanelView {
  constructor(model, store, element) {
    [this.model, this.store] = [model, store];
    this.root = document.createElement("div");
    this.root.className = "mlcycle-panel";
    this.root.setAttribute("role", "region");
    const part = (name, role) => {
      const made = document.createElement("div");
      made.className = `mlcycle-${name}`;
      if (role) made.setAttribute("role", role);
      this.root.append(made);
      return made;
    };
    this.silent = part("silence", "status");
    this.before = part("html");
    this.buttons = part("buttons", "group");
    this.buttons.setAttribute("aria-label", "actions");
    this.message = part("message", "status");
    this.charts = part("charts");
    this.after = part("html");
    this.views = [];
    this.silence = setInterval(() => this.tellSilence(), 2000);
    element.replaceChildren(this.root);
    this.show(null);
  }
  show(change) {
    const state = this.store.state;
    this.root.setAttribute("aria-label", state.label);
    if (!change || change.before) showHtml(this.before, state.before);
    if (!change || change.after) showHtml(this.after, state.after);
    if (!change || change.message !== undefined) showHtml(this.message, state.message);
    if (!change || change.buttons) this.showButtons(state.buttons);
    if (!change || change.charts || change.data) this.showCharts(state.charts, !change || Boolean(change.charts));
  }
  tellSilence() {
    const silent = !this.store.state.over && Date.now() - this.store.heardAt > SILENT_MS;
    if (silent === this.root.classList.contains("mlcycle-silent")) return;
    this.root.classList.toggle("mlcycle-silent", silent);
    const time = new Date(this.store.heardAt).toLocaleTimeString();
    this.silent.textContent = silent
      ? `No news from the kernel since ${time}: this is how things stood then. Run the cell again to see them now.` : "";
  }
  showButtons(buttons) {
    const focused = document.activeElement?.dataset?.action;
    this.buttons.replaceChildren(...buttons.map(([label, tone]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.dataset.action = label;
      button.dataset.tone = tone;
      button.addEventListener("click", () => this.model.send({ press: label }));
      return button;
    }));
    if (focused) [...this.buttons.children].find((button) => button.dataset.action === focused)?.focus();
  }
  showCharts(charts, renewed) {
    while (this.views.length > charts.length) this.views.pop().remove();
    charts.forEach((chart, place) => {
      const fresh = !this.views[place];
      if (fresh) this.views.push(new ChartView(this.model, this.charts));
      this.views[place].show(chart, fresh || renewed);
    });
  }
  close() {
    clearInterval(this.silence);
    this.views.forEach((view) => view.remove());
  }
}

export default {
  initialize({ model }) {
    storeOf(model);
    return () => stores.delete(model.get("key"));
  },
  render({ model, el }) {
    const store = storeOf(model);
    const view = new PanelView(model, store, el);
    const told = (change) => view.show(change);
    store.views.add(told);
    return () => {
      store.views.delete(told);
      view.close();
    };
  },
};
