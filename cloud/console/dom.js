// Create elements. All content is inserted as text and never parsed as HTML, so text from devices is never markup.

export function element(name, attributes = {}, ...children) {
  const created = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) created.setAttribute(key, value === true ? "" : value);
  }
  created.append(...children.filter((child) => child !== null && child !== undefined));
  return created;
}

export function table(columns, rows, whenEmpty) {
  if (!rows.length) return element("p", { class: "empty" }, whenEmpty);
  const heads = columns.map((column) => element("th", { scope: "col" }, column));
  const lines = rows.map((cells) => element("tr", {}, ...cells.map((cell, index) => field(columns[index], cell, index === 0))));
  return element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...lines));
}

function field(column, content, isName) {
  const parts = [content].flat().filter((part) => part !== null && part !== undefined && part !== "");
  const wrapped = parts.map((part) => (typeof part === "string" ? element("span", {}, part) : part));
  const attributes = { "data-column": column, class: parts.length ? null : "is-empty" };
  return isName ? element("th", { scope: "row", ...attributes }, ...wrapped) : element("td", attributes, ...wrapped);
}

// Replace the children of `parent`, changing only nodes that differ, so that hover, focus and reading position are kept.
// Nodes are matched by position; click handlers therefore use data attributes (main.js).
export function show(parent, ...children) {
  update(parent, element("div", {}, ...children));
}

function update(parent, target) {
  const children = [...target.childNodes]; // a copy, because appended nodes leave `target`
  children.forEach((next, position) => {
    const current = parent.childNodes[position];
    if (!current) parent.append(next);
    else if (current.nodeName !== next.nodeName) current.replaceWith(next);
    else if (current.nodeType === Node.TEXT_NODE) current.data !== next.data && (current.data = next.data);
    else {
      updateAttributes(current, next);
      update(current, next);
    }
  });
  while (parent.childNodes.length > children.length) parent.lastChild.remove();
}

function updateAttributes(current, next) {
  for (const { name } of [...current.attributes]) if (!next.hasAttribute(name)) current.removeAttribute(name);
  for (const { name, value } of next.attributes) if (current.getAttribute(name) !== value) current.setAttribute(name, value);
}
