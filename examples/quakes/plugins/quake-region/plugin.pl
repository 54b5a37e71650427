% Decides in which region an earthquake is, and which of the rules for it applies. The first that fits is the answer.

:- bridge_on('quake.new', decide).
:- bridge_export(region, region/5).

%!  region(+Lat, +Lon, +Depth, +Mag, -Decision) is det.
%
%   Decision is {region, rule}.
region(Lat, Lon, Depth, Mag, _{region: Region, rule: Rule}) :-
    once(inside(Lat, Lon, Region)),
    once(rule(Region, Depth, Mag, Rule)).

decide(Event, Decision) :-
    [Lon, Lat, Depth|_] = Event.data.geometry.coordinates,
    region(Lat, Lon, Depth, Event.data.properties.mag, Decision).

inside(Lat, Lon, Region) :-
    box(Region, South, North, West, East),
    between_(South, North, Lat),
    (   West =< East -> between_(West, East, Lon) ; \+ between_(East, West, Lon) ).  % over the date line
inside(_, _, elsewhere).

between_(Low, High, X) :- Low =< X, X =< High.

box(the_geysers, 38.7, 38.9, -122.95, -122.65).     box(hawaii, 18, 23, -161, -154).
box(california, 32, 42, -125, -114).                box(alaska, 51, 72, 170, -130).
box(caribbean, 10, 22, -85, -58).                   box(taiwan, 21.5, 25.6, 119.5, 123).
box(japan, 24, 46, 123, 149).                       box(south_pacific, -40, 0, 140, -170).
box(central_america, 5, 20, -106, -77.5).           box(indonesia, -11, 8, 94, 140).
box(south_america, -56, 13, -82, -66).

coastal([hawaii, alaska, caribbean, taiwan, japan, south_pacific, central_america, south_america,
         indonesia]).

rule(Region, Depth, Mag, "tsunami watch") :- coastal(Regions), memberchk(Region, Regions), Mag >= 6.0, Depth =< 70.
rule(_, Depth, Mag, "shaking report") :- Mag >= 5.5 ; Mag >= 4.5, Depth =< 35.
rule(the_geysers, _, Mag, "steam field noise") :- Mag < 3.
rule(Region, _, Mag, "people nearby may feel it") :- memberchk(Region, [california, hawaii, caribbean, taiwan]), Mag >= 3.
rule(_, _, _, "for the record").
