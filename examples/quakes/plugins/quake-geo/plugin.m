1; % Distances on the globe. Points are [latitude, longitude] in degrees.

% distance(a, b) -> kilometres along the great circle
function km = distance(a, b)
  km = haversine(a(1), a(2), b(1), b(2));
end

% nearest_city(point) -> {name, lat, lon, km}
function city = nearest_city(point)
  persistent all = cities();
  [km, i] = min(haversine(point(1), point(2), [all{:,2}], [all{:,3}]));
  city = struct("name", all{i,1}, "lat", all{i,2}, "lon", all{i,3}, "km", km);
end

% Any of the four may be a vector.
function km = haversine(lat1, lon1, lat2, lon2)
  h = sind((lat2 - lat1) / 2) .^ 2 + cosd(lat1) .* cosd(lat2) .* sind((lon2 - lon1) / 2) .^ 2;
  km = 2 * 6371.0088 * asin(sqrt(min(h, 1)));
end

function all = cities()
  all = {
    "Anchorage", 61.22, -149.90; "Los Angeles", 34.05, -118.24; "San Francisco", 37.77, -122.42
    "Seattle", 47.61, -122.33; "Honolulu", 21.31, -157.86; "Mexico City", 19.43, -99.13
    "San Juan", 18.47, -66.11; "Managua", 12.11, -86.24; "Panama City", 8.98, -79.52
    "Bogota", 4.71, -74.07; "Quito", -0.18, -78.47; "Lima", -12.05, -77.04
    "Arequipa", -16.41, -71.54; "Santiago", -33.45, -70.67; "Mendoza", -32.89, -68.85
    "Ushuaia", -54.80, -68.30; "Reykjavik", 64.15, -21.94; "Longyearbyen", 78.22, 15.65
    "Lisbon", 38.72, -9.14; "Rome", 41.90, 12.50; "Athens", 37.98, 23.73
    "Istanbul", 41.01, 28.98; "Kinshasa", -4.44, 15.27; "Nairobi", -1.29, 36.82
    "Tehran", 35.69, 51.39; "Kabul", 34.53, 69.17; "Dushanbe", 38.56, 68.77
    "Kathmandu", 27.72, 85.32; "Yangon", 16.87, 96.20; "Jakarta", -6.21, 106.85
    "Makassar", -5.15, 119.43; "Davao", 7.19, 125.46; "Manila", 14.60, 120.98
    "Taipei", 25.03, 121.57; "Tokyo", 35.68, 139.69; "Sapporo", 43.06, 141.35
    "Guam", 13.44, 144.79; "Port Moresby", -9.44, 147.18; "Honiara", -9.43, 159.96
    "Port Vila", -17.73, 168.32; "Suva", -18.14, 178.44; "Nuku'alofa", -21.14, -175.20
    "Apia", -13.83, -171.77; "Wellington", -41.29, 174.78; "Perth", -31.95, 115.86 };
end
bridge_export("distance", @distance);
bridge_export("nearest_city", @nearest_city);
