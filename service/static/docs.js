import { element } from "./element.js";

function table(caption, rows) {
  if (!rows.length) return "";
  const body = rows.map(([name, ...rest]) => element(
    "tr", {}, element("th", { scope: "row" }, element("code", {}, name)), ...rest.map((text) => element("td", {}, text)),
  ));
  return element("table", {}, element("caption", { className: "soft" }, caption), ...body);
}

function type(schema = {}) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(type).join(" or ");
  if (schema.const !== undefined) return schema.const;
  return schema.type === "array" ? `list of ${type(schema.items)}` : schema.type ?? "";
}

function parameter({ name, schema, description, required }) {
  const standard = schema.default === undefined ? "" : ` Default ${schema.default}.`;
  return [name, type(schema), `${description ?? schema.description ?? ""}${standard}${required ? " Required." : ""}`];
}

function call(method, path, { summary, description, parameters = [], requestBody, responses }) {
  const bodies = Object.entries(requestBody?.content ?? {}).map(([media, { schema }]) => [media, type(schema)]);
  const outcomes = Object.entries(responses).map(([code, { description: meaning, content = {} }]) => [
    code, meaning, Object.entries(content).map(([media, { schema }]) => type(schema) || media).join(", "),
  ]);
  return element(
    "details", {},
    element("summary", {}, element("code", {}, `${method.toUpperCase()} ${path}`), ` ${summary}`),
    element("p", {}, description ?? ""),
    table("Parameters", parameters.map(parameter)),
    table("Body", bodies),
    table("Answers", outcomes),
  );
}

function schema(name, { description = "", properties = {} }) {
  const rows = Object.entries(properties).map(([field, of]) => [field, type(of), of.description ?? ""]);
  return element("details", { id: name }, element("summary", {}, name), element("p", {}, description), table("Fields", rows));
}

const status = document.getElementById("status");
fetch("openapi.json").then((response) => response.json()).then(({ info, paths, components }) => {
  const calls = Object.entries(paths).flatMap(
    ([path, methods]) => Object.entries(methods).map(([method, of]) => call(method, path, of)),
  );
  const schemas = Object.entries(components.schemas).map(([name, of]) => schema(name, of));
  status.textContent = `${info.summary} Version ${info.version}.`;
  document.getElementById("calls").replaceChildren(
    element("h2", {}, "Calls"), ...calls, element("h2", {}, "Objects"), ...schemas,
  );
}).catch(() => { status.textContent = "The OpenAPI document cannot be loaded."; });
