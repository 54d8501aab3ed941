"use strict";

// Which configurations are shown: those that were clicked, or all; of them, those that have the words.
const rows = [...document.querySelectorAll(".sortable tbody tr")];
const search = document.getElementById("search");
const picked = new Set();
const charts = [];

for (const place of document.querySelectorAll(".chart")) {
  const specification = JSON.parse(place.querySelector("script").textContent);
  const values = Object.values(specification.datasets ?? {}).flat();
  // Names end in an ellipsis where they would not fit; the table has them whole.
  specification.config.legend.labelLimit = specification.config.title.limit = place.clientWidth - 100;
  const choice = specification.params?.find((each) => each.name === "chosen");
  const numbers = new Set(values.map((row) => row.number).filter((number) => number !== undefined));
  if (numbers.size && !choice) {
    specification.params = [...(specification.params ?? []), { name: "shown", value: null }];
    const filter = "!isValid(shown) || !isValid(datum.number) || indexof(shown, datum.number) >= 0";
    specification.transform = [{ filter }, ...(specification.transform ?? [])];
  }
  const theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const chart = { place, values, numbers, options: choice?.bind.options };
  chart.ready = vegaEmbed(place, specification, { renderer: "svg", actions: false, tooltip: { theme } }).then(({ view }) => {
    chart.view = view;
    view.addEventListener("click", (_, item) => pick(numberOf(item?.datum)));
  });
  charts.push(chart);
}
// Tests and printing wait for it.
const drawn = Promise.all(charts.map((chart) => chart.ready));

// A mark has its configuration's number; a line of the legend begins with it.
function numberOf(datum) {
  const number = datum?.number ?? /^(\d+) {2}/.exec(datum?.value ?? "")?.[1];
  return number === undefined ? undefined : Number(number);
}

function pick(number) {
  if (number === undefined || !search) return;
  if (!picked.delete(number)) picked.add(number);
  show();
}

function show() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (row) => words.every((word) => row.textContent.toLowerCase().includes(word));
  const number = (row) => Number(row.dataset.number);
  for (const row of rows) row.hidden = !fits(row) || (picked.size > 0 && !picked.has(number(row)));
  const left = rows.filter((row) => !row.hidden).map(number);
  const all = left.length === rows.length;
  document.getElementById("shown").textContent = all ? "" : `${left.length} of ${rows.length}`;
  document.getElementById("all").hidden = all;
  for (const chart of charts.filter((each) => each.view && each.numbers.size)) filter(chart, all ? null : left);
}

function filter({ place, view, numbers, options }, shown) {
  place.hidden = shown !== null && !shown.some((number) => numbers.has(number));
  if (place.hidden) return;
  if (options) {
    const option = options.find((each) => shown?.includes(Number.parseInt(each)));
    if (option) view.signal("chosen", option).runAsync();
    return;
  }
  view.signal("shown", shown).runAsync();
}

if (search) {
  search.addEventListener("input", show);
  document.getElementById("all").addEventListener("click", () => {
    search.value = "";
    picked.clear();
    show();
  });
  for (const row of rows) row.addEventListener("click", () => getSelection().isCollapsed && pick(Number(row.dataset.number)));
}

for (const [column, heading] of document.querySelectorAll(".sortable th").entries()) {
  const button = document.createElement("button");
  button.append(...heading.childNodes);
  heading.append(button);
  let direction = 1;
  const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const order = (a, b) => isNaN(a) - isNaN(b) || direction * (isNaN(a) ? a.localeCompare(b) : a - b);
  button.addEventListener("click", () => {
    direction = -direction;
    const body = heading.closest("table").tBodies[0];
    body.append(...[...body.rows].sort((a, b) => order(key(a), key(b))));
  });
}

// Downloads: what a figure shows, and the numbers behind it, made of the page alone.
for (const place of document.querySelectorAll(".files")) {
  const own = charts.filter((chart) => place.closest("figure").contains(chart.place));
  const [svg, png, csv] = place.querySelectorAll("button");
  const save = async (ending, content) => {
    const link = document.createElement("a");
    link.download = `${place.dataset.name}.${ending}`;
    link.href = URL.createObjectURL(await content);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  };
  svg.addEventListener("click", () => save("svg", asSvg(own)));
  png.addEventListener("click", () => save("png", asPng(own)));
  csv.addEventListener("click", () => save("csv", asCsv(own)));
}

// All charts of a figure in one drawing on white, one under another.
async function asSvg(own) {
  const texts = await Promise.all(own.filter((chart) => !chart.place.hidden).map((chart) => chart.view.toSVG()));
  const drawings = texts.map((text) => new DOMParser().parseFromString(text, "image/svg+xml").documentElement);
  const whole = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  let width = 0, height = 0;
  for (const drawing of drawings) {
    drawing.setAttribute("y", height);
    width = Math.max(width, Number(drawing.getAttribute("width")));
    height += Number(drawing.getAttribute("height")) + 16;
    whole.append(drawing);
  }
  whole.setAttribute("width", width);
  whole.setAttribute("height", height);
  whole.setAttribute("style", "background: white; color: black");
  return new Blob([new XMLSerializer().serializeToString(whole)], { type: "image/svg+xml" });
}

async function asPng(own) {
  const image = new Image();
  image.src = URL.createObjectURL(await asSvg(own));
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [2 * image.width, 2 * image.height];
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  return new Promise((resolve) => canvas.toBlob(resolve));
}

function asCsv(own) {
  const values = own.flatMap((chart, number) => chart.values.map((row) => (own.length > 1 ? { chart: number + 1, ...row } : row)));
  const columns = [...new Set(values.flatMap(Object.keys))];
  const cell = (value) => (/[",\n]/.test(value ?? "") ? `"${String(value).replaceAll('"', '""')}"` : String(value ?? ""));
  const lines = [columns, ...values.map((row) => columns.map((column) => row[column]))];
  return new Blob([lines.map((line) => line.map(cell).join(",") + "\n").join("")], { type: "text/csv" });
}

// Two configurations against each other. A pair is listed once; the other way round its signs are turned.
const pairs = document.getElementById("pairs");
if (pairs) {
  const { measures, differences } = JSON.parse(pairs.textContent);
  const [one, other] = ["one", "other"].map((id) => document.getElementById(id));
  const minus = (value) => (value === null ? null : -value);
  const sign = (value, places) => (value > 0 ? "+" : "") + value.toFixed(places).replace("-", "−");
  const compare = () => {
    const body = document.getElementById("pair");
    body.replaceChildren();
    for (const { name, places } of measures) {
      const key = (a, b) => `${name}|${a.value}|${b.value}`;
      const turned = differences[key(other, one)];
      const found = differences[key(one, other)] ?? (turned && [minus(turned[0]), minus(turned[2]), minus(turned[1]), ...turned.slice(3)]);
      if (!found) continue;
      const [difference, low, high, count, p, verdict] = found;
      const told = verdict === "apart" ? (difference > 0 ? "higher" : "lower") : verdict;
      const interval = low === null ? "—" : `${sign(low, places)} to ${sign(high, places)}`;
      const cells = [name, sign(difference, places), interval, count, p === null ? "—" : p < 0.001 ? "< 0.001" : p.toFixed(3), told];
      const row = body.insertRow();
      for (const [column, text] of cells.entries()) {
        const place = row.insertCell();
        place.textContent = text;
        if (column === 0 || column === 5) place.className = "name";
      }
    }
    if (!body.rows.length) body.insertRow().insertCell().textContent = "They share no seed and metric.";
  };
  for (const select of [one, other]) select.addEventListener("change", compare);
  compare();
}
