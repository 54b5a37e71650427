// Alerts for strong earthquakes, in local time, with the nearest city and the rule that applies there.

const { threshold } = bridge.config;

/** What another plugin's function returns; null when that plugin is not part of this run. */
function ask(name, ...args) {
  try {
    return bridge.call(name, ...args);
  } catch (error) {
    if (error.kind === "NotFound") return null;
    throw error;
  }
}

/** `tz` is in minutes; where it is missing the sun decides. */
function localTime(time, tz, lon) {
  const minutes = tz ?? Math.round(lon / 15) * 60;
  const [hour, minute] = [Math.trunc(Math.abs(minutes) / 60), Math.abs(minutes) % 60];
  const timeZone = (minutes < 0 ? "-" : "+") + [hour, minute].map((part) => String(part).padStart(2, "0")).join(":");
  const format = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short", timeZone });
  return `${format.format(time)} (UTC${timeZone})`;
}

bridge.on("quake.new", ({ data: { id, properties, geometry } }) => {
  const { mag, place, time, tz } = properties;
  if (mag < threshold) return;
  const [lon, lat, depth] = geometry.coordinates;
  const city = ask("quake-geo.nearest_city", [lat, lon]);
  const km = city && ask("quake-geo.distance", [lat, lon], [city.lat, city.lon]);
  const rule = ask("quake-region.region", lat, lon, depth, mag);
  const local = localTime(time, tz, lon);
  const text = [
    `M ${mag.toFixed(1)} ${place}, ${local}`,
    city ? `${Math.round(km)} km from ${city.name}` : "no distances without quake-geo",
    ...(rule ? [`${rule.region}: ${rule.rule}`] : []),
  ].join("; ");
  bridge.emit("alert.new", { id, mag, place, local, city: city?.name ?? null, km, rule, text });
});
