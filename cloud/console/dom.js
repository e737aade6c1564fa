// Make elements. Text goes in as text and nothing here can take HTML, so what a device says of itself is never markup.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function table(columns, rows, whenEmpty) {
  if (!rows.length) return element("p", { class: "empty" }, whenEmpty);
  const heads = columns.map((column) => element("th", { scope: "col" }, column));
  const lines = rows.map((cells) => element("tr", {}, ...cells.map((cell, place) => field(columns[place], cell, place === 0))));
  return element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...lines));
}

function field(column, content, isName) {
  const parts = [content].flat().filter((part) => part !== null && part !== undefined && part !== "");
  const wrapped = parts.map((part) => (typeof part === "string" ? element("span", {}, part) : part));
  const attributes = { "data-column": column, class: parts.length ? null : "is-empty" };
  return isName ? element("th", { scope: "row", ...attributes }, ...wrapped) : element("td", attributes, ...wrapped);
}

// Make a place look like `children`, changing only what differs: the node under the pointer, the focus and the reading
// position survive a change elsewhere. Nodes are matched by position, so what a click means is in data attributes (main.js).
export function show(place, ...children) {
  const wanted = element("div", {}, ...children);
  match(place, wanted);
}

function match(old, wanted) {
  const children = [...wanted.childNodes]; // a copy: those that are new move over
  children.forEach((fresh, position) => {
    const was = old.childNodes[position];
    if (!was) old.append(fresh);
    else if (was.nodeName !== fresh.nodeName) was.replaceWith(fresh);
    else if (was.nodeType === Node.TEXT_NODE) was.data !== fresh.data && (was.data = fresh.data);
    else {
      matchAttributes(was, fresh);
      match(was, fresh);
    }
  });
  while (old.childNodes.length > children.length) old.lastChild.remove();
}

function matchAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
}
